"""Turns as datasets write them become canonical messages, with the training flags that they carry."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from studio.data.conversations import read_conversations
from studio.data.turns import Dropped, turns
from studio.recipe import DataSpec

ASK, SAY = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
AGAIN, MORE = {"role": "user", "content": "Really?"}, {"role": "assistant", "content": "Yes."}


def read(path) -> list:
    return list(read_conversations(DataSpec(source=str(path))).conversations)


def code_of(given) -> str:
    with pytest.raises(Dropped) as caught:
        turns(given, "messages")
    return caught.value.code


@pytest.mark.parametrize(
    "flag",
    [
        {"weight": 0},
        {"weight": 0.0},
        {"weight": "0"},
        {"train": False},
        {"trainable": False},
        {"trainable": "false"},
        {"training": False},
        {"loss": False},
        {"masked": True},
        {"weight": 0, "train": False},
    ],
)
def test_data_02_a_message_that_a_flag_excludes_is_marked(flag):
    messages = turns([ASK, {**SAY, **flag}, AGAIN, MORE], "messages")
    assert messages == [ASK, {**SAY, "train": False}, AGAIN, MORE]


@pytest.mark.parametrize(
    "flag",
    [{"weight": 1}, {"weight": 1.0}, {"train": True}, {"trainable": None}, {"masked": False}, {"loss": 0.25}, {}],
)
def test_data_02_a_message_that_no_flag_excludes_has_no_key(flag):
    assert turns([ASK, {**SAY, **flag}], "messages") == [ASK, SAY]


@pytest.mark.parametrize(
    "flag",
    [
        {"weight": 0.5},
        {"weight": -1},
        {"weight": 2},
        {"weight": float("nan")},
        {"train": "maybe"},
        {"weight": 0, "train": True},
        {"trainable": True, "masked": True},
        {"train_detail": [{"begin_offset": 0, "end_offset": 3, "train": False}]},
    ],
)
def test_data_02_a_flag_that_cannot_be_obeyed_rejects_the_row_with_a_code(flag):
    assert code_of([ASK, {**SAY, **flag}]) == "training_flag"


def test_data_02_flags_of_sharegpt_are_obeyed(tmp_path):
    asked = {"from": "human", "value": "Why?", "weight": 0}
    said = [{"from": "gpt", "value": "Because.", "weight": 0}, {"from": "gpt", "value": "Yes.", "weight": 1}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"conversations": [asked, said[0], asked, said[1]]}))
    (row,) = read(tmp_path / "a.jsonl")
    assert [message.get("train") for message in row.messages] == [False, False, False, None]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_data_02_a_row_whose_assistant_turns_are_all_excluded_is_rejected(tmp_path, kind):
    rows = [{"messages": [ASK, {**SAY, "weight": 0}]}, {"messages": [ASK, SAY]}]
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    masked, plain = read(path)
    assert (masked.code, masked.messages) == ("all_turns_masked", None)
    assert masked.dropped
    assert plain.messages == [ASK, SAY]  # the null that Parquet puts into the other rows is no flag
