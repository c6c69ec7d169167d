"""Cleaned rows: the file holds what is said of it, whole or not at all, and never what cannot be trained on."""

import errno
import json
from pathlib import Path

import pytest
from lessons import lesson

from studio.data import load_conversations
from studio.errors import StudioError
from studio.training import clean as module
from studio.training.check import check
from studio.training.clean import DEFAULT, REMOVABLE, clean, main

pytestmark = pytest.mark.usefixtures("home")

LONG = " ".join(f"word{n}" for n in range(40))
ROWS = [
    {"prompt": "First?", "completion": "One."},
    {"prompt": "First?", "completion": "One."},  # a copy
    {"prompt": "Nobody answers", "completion": ""},
    {"prompt": "Mail?", "completion": "Write to someone@example.com."},
    {"prompt": "Long?", "completion": LONG},
    {"prompt": "Long?", "completion": LONG + " more"},  # nearly a copy
    {"prompt": "only"},
    {"prompt": "Last?", "completion": "Größe 🙂\u2028."},
]


@pytest.fixture
def recipe(tiny_model, tmp_path):
    """A recipe over a row of each kind."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    made = lesson(tiny_model, path)
    made.data.max_length = 1024
    return made


@pytest.fixture
def target(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "clean.jsonl"


def answers(path: Path) -> list[str]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    return [row["messages"][-1]["content"] for row in rows]


def completions(*numbers: int) -> list[str]:
    return [ROWS[number - 1]["completion"] for number in numbers]


def test_copies_and_rows_that_cannot_be_trained_on_are_left_out(recipe, target):
    assert DEFAULT == ("duplicate",)
    assert clean(recipe, target) == (5, 3)
    assert answers(target) == completions(1, 4, 5, 6, 8)


def test_rows_that_cannot_be_trained_on_are_left_out_even_if_nothing_else_is(recipe, target):
    assert clean(recipe, target, []) == (6, 2)
    assert answers(target) == completions(1, 2, 4, 5, 6, 8)


@pytest.mark.parametrize(("kind", "left"), [("email", 4), ("near_duplicate", 6), ("duplicate", 2)])
def test_the_rows_of_each_finding_that_is_named_are_left_out(recipe, target, kind, left):
    clean(recipe, target, [kind])
    assert answers(target) == completions(*(number for number in (1, 2, 4, 5, 6, 8) if number != left))


def test_several_findings_are_left_out_together(recipe, target):
    assert clean(recipe, target, ["duplicate", "near_duplicate", "email"]) == (3, 5)
    assert answers(target) == completions(1, 5, 8)


def test_rows_that_the_chat_template_refuses_are_always_left_out(recipe, target):
    recipe.data.chat_template = (
        "{% for m in messages %}{% if m.content == 'Mail?' %}{{ raise_exception('no mail') }}{% endif %}"
        "<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    )
    clean(recipe, target, [])
    assert answers(target) == completions(1, 2, 5, 6, 8)


def test_what_is_written_is_read_as_the_same_conversations(recipe, target):
    clean(recipe, target, [])
    again = recipe.data.model_copy(update={"source": str(target)})
    assert load_conversations(again)["messages"][:] == load_conversations(recipe.data)["messages"][:]


def test_a_cleaned_file_has_nothing_more_to_be_left_out(recipe, target, tmp_path):
    kept, _ = clean(recipe, target)
    recipe.data = recipe.data.model_copy(update={"source": str(target)})
    assert clean(recipe, tmp_path / "again.jsonl") == (kept, 0)
    assert (tmp_path / "again.jsonl").read_bytes() == target.read_bytes()


def test_tools_and_tool_calls_are_written_as_they_are(recipe, target):
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "Köln"}}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": "Five.", "reasoning_content": "Hm."},
    ]
    row = {"messages": messages, "tools": [{"type": "function", "function": {"name": "look"}}]}
    Path(recipe.data.source).write_text(json.dumps(row) + "\n")
    assert clean(recipe, target) == (1, 0)
    assert json.loads(target.read_text()) == row


def test_plain_text_is_written_as_text(recipe, target):
    Path(recipe.data.source).write_text('{"text": "Once"}\n{"text": " "}\n{"text": "Once"}\n{"text": "Twice"}\n')
    assert clean(recipe, target) == (2, 2)
    assert [json.loads(line) for line in target.read_text().splitlines()] == [{"text": "Once"}, {"text": "Twice"}]


def test_a_row_of_a_mixture_is_written_as_often_as_it_is_used(recipe, target, tmp_path):
    more = tmp_path / "more.jsonl"
    more.write_text('{"prompt": "Mixed?", "completion": "Mixed."}\n')
    recipe.data = recipe.data.model_validate({**recipe.data.model_dump(), "mix": [{"source": str(more), "weight": 3}]})
    assert clean(recipe, target) == (8, 3)
    assert answers(target) == [*completions(1, 4, 5, 6, 8), *["Mixed."] * 3]


def test_a_finding_that_there_is_none_of_leaves_nothing_out(recipe, target):
    assert clean(recipe, target, ["secret"]) == (6, 2)


@pytest.mark.parametrize("kind", ["nonsense", "refused", "dropped", "unwanted", ""])
def test_what_is_not_a_removable_finding_is_refused(recipe, target, kind):
    with pytest.raises(StudioError) as caught:
        clean(recipe, target, [kind])
    assert repr(kind) in caught.value.what
    assert caught.value.fix == f"Use some of: {', '.join(REMOVABLE)}."
    assert not target.exists()


class FullDisk:
    """An open file on a disk that is full after so many characters."""

    def __init__(self, file, room: int):
        self._file, self._room = file, room

    def write(self, text: str) -> int:
        self._room -= len(text)
        if self._room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


@pytest.fixture
def full_disk(monkeypatch):
    """The disk is full after 150 characters of the cleaned file."""
    real = Path.open

    def opened(path, mode="r", *given, **named):
        file = real(path, mode, *given, **named)
        return FullDisk(file, 150) if "w" in mode and "clean.jsonl" in path.name else file

    monkeypatch.setattr(Path, "open", opened)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_no_file_and_is_said(recipe, target):
    with pytest.raises(StudioError, match=r"cannot be written: No space left on device") as caught:
        clean(recipe, target)
    assert "disk space" in caught.value.fix
    assert list(target.parent.iterdir()) == []


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_the_file_of_before_as_it_was(recipe, target):
    target.write_text("of before")
    with pytest.raises(StudioError):
        clean(recipe, target)
    assert target.read_text() == "of before"
    assert list(target.parent.iterdir()) == [target]


def test_an_interruption_leaves_no_file(recipe, target, monkeypatch):
    def interrupted(rows):
        raise KeyboardInterrupt

    check(recipe)  # so that only the writing is interrupted
    with pytest.raises(KeyboardInterrupt):
        clean(recipe, target, progress=interrupted)
    assert list(target.parent.iterdir()) == []


def test_a_source_that_breaks_on_the_way_leaves_no_file(recipe, target, monkeypatch):
    check(recipe)
    real = module.read_conversations

    def breaks(data, **settings):
        reading = real(data, **settings)
        first = next(reading.conversations)

        def some():
            yield first
            raise StudioError("rows.jsonl, line 2: broken.", "Mend it.")

        reading.conversations = some()
        return reading

    monkeypatch.setattr(module, "read_conversations", breaks)
    with pytest.raises(StudioError, match="line 2: broken"):
        clean(recipe, target)
    assert list(target.parent.iterdir()) == []


def test_nothing_is_written_if_no_row_would_be_left(recipe, target):
    rows = [{"prompt": "Mail?", "completion": f"{name}@example.com"} for name in "ab"]
    Path(recipe.data.source).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(StudioError, match="No row would be left"):
        clean(recipe, target, ["email"])
    assert list(target.parent.iterdir()) == []


def test_a_folder_that_is_not_there_is_said(recipe, tmp_path):
    with pytest.raises(StudioError, match="cannot be written: No such file or directory"):
        clean(recipe, tmp_path / "nowhere" / "clean.jsonl")


def test_the_source_may_be_cleaned_in_place(recipe):
    source = Path(recipe.data.source)
    assert clean(recipe, source) == (5, 3)
    assert answers(source) == completions(1, 4, 5, 6, 8)


def test_the_command_prints_the_counts(recipe, target, tmp_path, capsys):
    recipe.save(tmp_path / "recipe.yaml")
    assert main([str(tmp_path / "recipe.yaml"), str(target), "duplicate", "email"]) == 0
    assert json.loads(capsys.readouterr().out) == {"kept": 4, "left_out": 4}
    assert answers(target) == completions(1, 5, 6, 8)


def test_the_command_prints_a_refusal(recipe, target, tmp_path, capsys):
    recipe.save(tmp_path / "recipe.yaml")
    assert main([str(tmp_path / "recipe.yaml"), str(target), "nonsense"]) == 1
    assert "'nonsense' is not a finding" in json.loads(capsys.readouterr().out)["error"][0]
