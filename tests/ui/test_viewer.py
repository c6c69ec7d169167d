"""The viewer: rows come from a process of its own, which may be killed, hang or be started again."""

import json
import os
import signal
import threading
import time

import psutil
import pytest

from studio.errors import StudioError
from studio.recipe import Recipe
from studio.training.view import Wanted
from studio.ui import viewer as module
from studio.ui.viewer import Viewer

ENDLESS = (  # Python never comes up for air in it, so no alarm can ring
    "{% for m in messages %}"
    "{% if m.content == 'Question 3?' %}{{ (7 ** (10 ** 9 * messages | length)) % 3 }}{% endif %}"
    "{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
)


@pytest.fixture(scope="module")
def viewer(tiny_model, tmp_path_factory):
    """A viewer whose process has a workspace of its own and no Hub. It may be killed: it starts again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUDIO_HOME", str(tmp_path_factory.mktemp("viewer")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        made = Viewer()
        yield made
        made.close()


@pytest.fixture
def recipe(tiny_model, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Question {n}?", "completion": f"Answer {n}."} for n in range(1, 8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Recipe.parse({"model": {"id": str(tiny_model)}, "data": {"source": str(path)}})


def numbers(viewer: Viewer, recipe: Recipe, **wanted) -> list[int]:
    return [conversation.row for conversation, _ in viewer.view(Wanted(recipe, **wanted)).rows]


def process(viewer: Viewer) -> psutil.Process:
    return psutil.Process(viewer._process.pid)


def kill(viewer: Viewer) -> int:
    """Kill the viewer's process, and it is dead."""
    pid = viewer._process.pid
    os.kill(pid, signal.SIGKILL)
    viewer._process.wait(timeout=10)
    return pid


def test_rows_come_from_another_process_which_stays(viewer, recipe):
    assert numbers(viewer, recipe, count=3) == [1, 2, 3]
    first = process(viewer)
    assert first.pid != os.getpid()
    assert first.ppid() == os.getpid()
    assert numbers(viewer, recipe, start=4, count=2) == [4, 5]
    assert process(viewer) == first


def test_a_row_comes_with_its_example(viewer, recipe):
    ((conversation, encoded),) = viewer.view(Wanted(recipe, start=2, count=1)).rows
    assert conversation.messages[-1] == {"role": "assistant", "content": "Answer 2."}
    assert "Answer 2." in encoded.text
    assert any(label != -100 for label in encoded.labels)


def test_the_template_comes_as_text(viewer, recipe):
    recipe.data.chat_template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    assert viewer.template(recipe) == recipe.data.chat_template


def test_a_refusal_comes_as_a_refusal_and_the_process_stays(viewer, recipe):
    numbers(viewer, recipe)
    first = process(viewer)
    recipe.data.source = "no-such-file.jsonl"
    with pytest.raises(StudioError, match=r"no-such-file\.jsonl") as caught:
        viewer.view(Wanted(recipe))
    assert caught.value.field == "data.source"
    assert caught.value.fix
    assert process(viewer) == first


def test_a_process_that_was_killed_between_two_requests_is_started_again(viewer, recipe):
    numbers(viewer, recipe)
    dead = kill(viewer)
    assert numbers(viewer, recipe) == list(range(1, 8))
    assert viewer._process.pid != dead


def test_a_process_that_is_killed_while_it_answers_is_said_and_the_next_request_is_answered(viewer, recipe):
    numbers(viewer, recipe)
    os.kill(viewer._process.pid, signal.SIGSTOP)  # so that it cannot answer before it is killed
    killer = threading.Timer(0.5, os.kill, [viewer._process.pid, signal.SIGKILL])
    killer.start()
    before = time.monotonic()
    with pytest.raises(StudioError, match="ended without a word") as caught:
        viewer.view(Wanted(recipe))
    killer.join()
    assert 0.4 < time.monotonic() - before < 10
    assert "out of memory" in caught.value.fix
    assert numbers(viewer, recipe) == list(range(1, 8))


def test_a_template_that_never_ends_is_ended_with_its_process_and_said(viewer, recipe, monkeypatch):
    numbers(viewer, recipe)
    stuck = process(viewer)
    good = recipe.data.chat_template
    recipe.data.chat_template = ENDLESS
    assert numbers(viewer, recipe, start=4) == [4, 5, 6, 7]  # the template itself is fine, and known
    monkeypatch.setattr(module, "_SECONDS", 3)
    with pytest.raises(StudioError, match="could not be shown within 3 seconds"):
        viewer.view(Wanted(recipe))
    assert not stuck.is_running()
    recipe.data.chat_template = good
    assert numbers(viewer, recipe) == list(range(1, 8))


def test_requests_of_several_threads_are_each_given_their_own_answer(viewer, recipe):
    found = {}

    def ask(start: int) -> None:
        found[start] = numbers(viewer, recipe, start=start, count=1)

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(1, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found == {start: [start] for start in range(1, 8)}


def test_a_closed_viewer_has_no_process_and_starts_again_when_it_is_asked(viewer, recipe):
    numbers(viewer, recipe)
    before = process(viewer)
    viewer.close()
    assert not before.is_running()
    viewer.close()
    assert numbers(viewer, recipe) == list(range(1, 8))
