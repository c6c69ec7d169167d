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
from studio.training.row_preview import Wanted
from studio.ui.data import preview_process as module
from studio.ui.data.preview_process import Viewer

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
    return psutil.Process(viewer.pids[-1])


def kill(viewer: Viewer) -> int:
    """Kill the viewer's process, and it is dead."""
    pid = viewer.pids[-1]
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.01)
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
    assert dead not in viewer.pids


def test_a_process_that_is_killed_while_it_answers_is_said_and_the_next_request_is_answered(viewer, recipe):
    numbers(viewer, recipe)
    os.kill(viewer.pids[-1], signal.SIGSTOP)  # so that it cannot answer before it is killed
    killer = threading.Timer(0.5, os.kill, [viewer.pids[-1], signal.SIGKILL])
    killer.start()
    before = time.monotonic()
    with pytest.raises(StudioError) as caught:
        viewer.view(Wanted(recipe))
    killer.join()
    assert 0.4 < time.monotonic() - before < 10
    assert caught.value.code == "preview_ended"
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


@pytest.fixture
def fresh(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made = Viewer(2)
    yield made
    made.close()


def endless(recipe: Recipe) -> Recipe:
    """The recipe with a template that never ends at its third row."""
    made = recipe.model_copy(deep=True)
    made.data.chat_template = ENDLESS
    return made


def started(viewer: Viewer, recipe: Recipe, session: str, errors: list) -> threading.Thread:
    """A thread that asks for rows; it has its process when this returns."""

    def ask() -> None:
        try:
            viewer.view(Wanted(recipe), session)
        except StudioError as error:
            errors.append(error)

    count = len(viewer._busy)
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while len(viewer._busy) == count and time.monotonic() < end:
        time.sleep(0.005)
    assert len(viewer._busy) == count + 1
    return thread


def test_security_08_a_slow_preview_of_one_browser_does_not_hold_up_another(fresh, recipe, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS", 20)
    errors = []
    slow = started(fresh, endless(recipe), "slow browser", errors)
    assert numbers(fresh, recipe) == list(range(1, 8))  # answered while the other one waits
    assert slow.is_alive() and not errors
    fresh.close()
    slow.join(timeout=30)
    assert [error.code for error in errors] == ["preview_ended"]


def test_security_08_the_newest_request_of_a_browser_takes_the_place_of_its_older_one(fresh, recipe):
    errors = []
    slow = started(fresh, endless(recipe), "browser", errors)
    rows = fresh.view(Wanted(recipe), "browser").rows
    slow.join(timeout=30)
    assert [conversation.row for conversation, _ in rows] == list(range(1, 8))
    assert [type(error) for error in errors] == [module.Superseded]


def test_security_08_one_browser_has_one_process_at_a_time(fresh, recipe):
    errors: list = []
    slow = started(fresh, endless(recipe), "greedy", errors)
    waits = threading.Thread(target=lambda: fresh.template(recipe, "greedy"), daemon=True)
    waits.start()
    time.sleep(0.2)
    assert [request.session for request, _ in fresh._busy.values()] == ["greedy"]
    assert numbers(fresh, recipe) == list(range(1, 8))  # although the other one has waited longer
    fresh.view(Wanted(recipe), "greedy")
    slow.join(timeout=30)
    waits.join(timeout=30)
    assert not waits.is_alive()


def test_security_08_there_are_never_more_processes_than_allowed(fresh, recipe):
    seen = []

    def ask(session: int) -> None:
        fresh.view(Wanted(recipe, start=session, count=1), f"browser {session}")
        seen.append(len(fresh.pids))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=90)
    assert len(seen) == 6
    assert max(seen) <= 2


def test_security_08_processes_that_nobody_needs_are_ended_and_one_stays(fresh, recipe, monkeypatch):
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.2)
    errors: list = []
    slow = started(fresh, endless(recipe), "slow browser", errors)
    numbers(fresh, recipe)
    fresh.view(Wanted(recipe), "slow browser")
    slow.join(timeout=30)
    end = time.monotonic() + 10
    while len(fresh.pids) > 1 and time.monotonic() < end:
        time.sleep(0.05)
    assert len(fresh.pids) == 1


def test_security_01_the_process_of_a_preview_has_no_tokens(fresh, recipe, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret-value")
    monkeypatch.setenv("WANDB_API_KEY", "secret-value")
    numbers(fresh, recipe)
    environment = psutil.Process(fresh.pids[-1]).environ()
    assert "HF_TOKEN" not in environment
    assert "WANDB_API_KEY" not in environment


def test_security_01_rows_of_the_hub_are_read_by_a_process_of_its_own_that_has_the_hub_token(recipe, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret-value")
    online = recipe.model_copy(deep=True)
    online.data.source = "owner/data"
    assert "HF_TOKEN" in module._kind_of(online)[0]
    assert module._kind_of(online) != module._kind_of(recipe)


def test_security_08_background_requests_leave_a_process_to_the_others(fresh, recipe):
    slow = threading.Thread(target=lambda: _ended(lambda: fresh.examine(endless(recipe), "a")), daemon=True)
    fresh._busy[0] = (module._Request(0, "survey", "b", module._kind_of(recipe)), None)
    slow.start()
    time.sleep(0.2)
    assert list(fresh._busy) == [0]  # the examination waits
    assert numbers(fresh, recipe) == list(range(1, 8))
    del fresh._busy[0]
    fresh._newest[("a", "launch")] = -1
    with fresh._changed:
        fresh._changed.notify_all()
    slow.join(timeout=30)
    assert not slow.is_alive()


def test_security_08_an_examination_takes_the_place_of_the_older_one_of_its_browser(fresh, recipe, monkeypatch):
    monkeypatch.setattr(module, "_BACKGROUND_GRACE_SECONDS", 0.1)
    errors: list = []
    slow = threading.Thread(target=lambda: errors.append(_ended(lambda: fresh.examine(endless(recipe), "a"))))
    slow.start()
    while not fresh._busy:
        time.sleep(0.005)
    assert fresh.examine(recipe, "a").problems == ()
    slow.join(timeout=30)
    assert [error.code for error in errors] == ["superseded"]


def _ended(ask) -> StudioError | None:
    try:
        ask()
    except StudioError as error:
        return error
    return None
