"""Turns as datasets write them become canonical messages, with the training flags that they carry."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from studio.data.conversations import read_conversations
from studio.data.turns import RowRejected, turns
from studio.recipe import DataSpec

ASK, SAY = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
AGAIN, MORE = {"role": "user", "content": "Really?"}, {"role": "assistant", "content": "Yes."}


def read(path) -> list:
    return list(read_conversations(DataSpec(source=str(path))).conversations)


def code_of(given) -> str:
    with pytest.raises(RowRejected) as caught:
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
    [
        {"weight": 1},
        {"weight": 1.0},
        {"train": True},
        {"trainable": None},
        {"masked": False},
        {"loss": 0.25},
        {"weight": float("nan")},
        {},
    ],
)
def test_data_02_a_message_that_no_flag_excludes_has_no_key(flag):
    assert turns([ASK, {**SAY, **flag}], "messages") == [ASK, SAY]


@pytest.mark.parametrize(
    "flag",
    [
        {"weight": 0.5},
        {"weight": -1},
        {"weight": 2},
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


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_data_07_nulls_of_a_table_are_no_arguments_and_nulls_of_json_are(tmp_path, kind):
    def row(call: dict, tool: dict) -> dict:
        called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": call}}]}
        tools = [{"type": "function", "function": {"name": "f", "parameters": tool}}]
        return {"messages": [ASK, called, {"role": "tool", "content": "done"}, SAY], "tools": tools}

    rows = [
        row({"x": 0, "y": 1}, {"properties": {"x": {"type": "integer"}}}),
        row({"theta": 1.5}, {"properties": {"theta": {"type": "number", "minimum": 0}}}),
    ]
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        rows[1]["messages"][1]["tool_calls"][0]["function"]["arguments"]["theta"] = None
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, other = read(path)
    called = [row.messages[1]["tool_calls"][0]["function"]["arguments"] for row in (one, other)]
    assert called == [{"x": 0, "y": 1}, {"theta": 1.5 if kind == "parquet" else None}]
    assert one.tools[0]["function"]["parameters"] == {"properties": {"x": {"type": "integer"}}}
    assert "x" not in other.tools[0]["function"]["parameters"]["properties"]


def test_data_07_nulls_of_a_table_in_typed_content_and_turns_are_dropped(tmp_path):
    typed = [{"type": "text", "text": "Why?"}]
    rows = [
        {"messages": [{"role": "user", "content": typed}, {"role": "assistant", "content": typed, "name": "a"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "x", "cache": 1}]},
                {**SAY, "content": typed},
            ]
        },
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    one, other = read(tmp_path / "a.parquet")
    assert one.messages == [ASK, {"role": "assistant", "content": "Why?", "name": "a"}]
    assert other.messages[0] == {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *((name, "assistant") for name in ("bing", "ai", "AI", "model", "bot", "gpt", "chatgpt", "bard", "gpt-4")),
        *((name, "user") for name in ("human", "Human", "prompter", " user ")),
        *((name, "tool") for name in ("function", "observation", "tool-response", "tool_result", "ipython")),
        *((name, "system") for name in ("developer", "System")),
    ],
)
def test_data_16_the_usual_names_of_roles_are_known(name, role):
    assert turns([{"from": name, "value": "x"}], "conversations", "from", "value")[0]["role"] == role


@pytest.mark.parametrize("keys", [("role", "content"), ("from", "value"), ("role", "value"), ("role", "text")])
def test_data_16_turns_are_found_under_the_usual_keys(tmp_path, keys):
    who, what = keys
    row = {"dialogue": [{who: "human", what: "Why?"}, {who: "ai", what: "Because."}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert read(tmp_path / "a.jsonl")[0].messages == [ASK, SAY]


def test_data_16_a_turn_without_any_text_is_rejected_with_a_code():
    assert code_of([{"role": "user", "msg": "Why?"}, SAY]) == "no_content"
