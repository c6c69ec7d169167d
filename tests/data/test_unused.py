"""Nothing of a row is lost silently: system columns are used, and every column that is not used is named."""

import json

import pytest

from studio.data.conversations import read_conversations
from studio.data.detect import detect
from studio.errors import StudioError
from studio.recipe import DataSpec

ASK, SAY = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
PIRATE = {"role": "system", "content": "You are a pirate."}
TURNS = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]


def opened(tmp_path, *rows: dict, **data):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reading = read_conversations(DataSpec(source=str(tmp_path / "a.jsonl"), **data))
    return reading, list(reading.conversations)


@pytest.mark.parametrize("column", ["system", "system_prompt", "System"])
@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, SAY]},
        {"conversations": TURNS},
        {"conversations": [ASK, SAY]},
        {"dialogue": [ASK, SAY]},
        {"instruction": "Why?", "output": "Because."},
        {"prompt": "Why?", "completion": "Because."},
        {"prompt": [ASK], "completion": [SAY]},
        {"question": "Why?", "answer": "Because."},
        {"text": "Why?", "label": "Because."},
        {"prompt": "Why?", "chosen": "Because.", "rejected": "No."},
        {"chosen": [ASK, SAY], "rejected": [ASK, ASK]},
        {"prompt": "Why?", "completion": "Because.", "label": True},
    ],
)
def test_data_01_a_system_column_is_the_system_message_in_every_format(tmp_path, row, column):
    reading, (conversation,) = opened(tmp_path, {column: PIRATE["content"], **row})
    assert conversation.messages == [PIRATE, ASK, SAY]
    assert column not in reading.mapping.unused


def test_data_01_chosen_columns_with_a_system_part_are_obeyed_with_format_auto(tmp_path):
    row = {"messages": [ASK, SAY], "persona": PIRATE["content"]}
    _, (conversation,) = opened(tmp_path, row, columns={"messages": "messages", "system": "persona"})
    assert conversation.messages == [PIRATE, ASK, SAY]
    _, (conversation,) = opened(tmp_path, row, columns={"system": "persona"})
    assert conversation.messages == [PIRATE, ASK, SAY]


def test_data_01_a_system_column_equal_to_the_system_message_is_fine_and_another_one_rejects_the_row(tmp_path):
    rows = [{"system": said, "messages": [PIRATE, ASK, SAY]} for said in (PIRATE["content"], "", "Be brief.")]
    _, (same, empty, other) = opened(tmp_path, *rows)
    assert same.messages == empty.messages == [PIRATE, ASK, SAY]
    assert (other.messages, other.code) == (None, "system_conflict")


def test_data_01_a_system_column_that_is_no_text_is_not_used_and_named(tmp_path):
    reading, (conversation,) = opened(tmp_path, {"system": {"os": "linux"}, "messages": [ASK, SAY]})
    assert conversation.messages == [ASK, SAY]
    assert [one["column"] for one in reading.unused_columns()] == ["system"]


@pytest.mark.parametrize(
    ("row", "columns", "parts"),
    [
        ({"messages": [ASK, SAY], "x": "y"}, {"messages": "messages", "persona": "x"}, "messages, system, tools"),
        ({"conversations": TURNS, "x": "y"}, {"context": "x"}, "conversations, system, tools"),
        ({"text": "Once.", "x": "y"}, {"text": "text", "title": "x"}, "text"),
        ({"question": "Why?", "answer": "x"}, {"question": "question", "promt": "answer"}, "question, answer"),
    ],
)
@pytest.mark.parametrize("chosen_format", [False, True])
def test_data_01_a_part_that_the_format_does_not_know_is_refused_with_its_parts(row, columns, parts, chosen_format):
    format = detect([row]).format if chosen_format else "auto"
    with pytest.raises(StudioError) as caught:
        detect([row], format, columns)
    assert (caught.value.code, caught.value.field) == ("unknown_part", "data.columns")
    assert parts in caught.value.fix


def test_data_01_every_column_that_is_not_used_is_named_with_its_rows(tmp_path):
    rows = [
        {"id": 1, "question": "Why?", "answer": "a", "source": None},
        *({"id": n, "question": f"Why {n}?", "answer": "a"} for n in range(30)),
        {"id": 2, "question": "Who?", "answer": "b", "late": "x"},
    ]
    reading, conversations = opened(tmp_path, *rows)
    assert reading.unused_columns() == [
        {"source": "a.jsonl", "column": "id", "rows": 32},
        {"source": "a.jsonl", "column": "source", "rows": 0},
        {"source": "a.jsonl", "column": "late", "rows": 1},
    ]
    assert conversations[-1].unused == ("id", "late")
    assert all(name in reading.notes()[0] for name in ("id", "source", "late"))


def test_data_01_keys_of_turns_that_are_not_used_are_named(tmp_path):
    reading, _ = opened(tmp_path, {"messages": [{**ASK, "context": "It rains."}, SAY]})
    assert [one["column"] for one in reading.unused_columns()] == ["messages[].context"]


def test_data_01_a_column_that_decides_what_is_held_out_is_used(tmp_path):
    reading, _ = opened(tmp_path, {"prompt": "a", "completion": "b", "part": "test"}, holdout_column="part")
    assert reading.unused_columns() == []


def test_data_01_a_note_on_a_wide_table_is_short_and_the_list_is_whole(tmp_path):
    wide = {f"column {n}": n for n in range(3000)}
    reading, conversations = opened(tmp_path, *({"prompt": "a", "completion": "b", **wide} for _ in range(3)))
    assert len(reading.notes()[0]) < 2000
    assert len(reading.unused_columns()) == 3000
    assert conversations[0].unused is conversations[2].unused
