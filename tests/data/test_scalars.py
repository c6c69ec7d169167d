"""Single values become text as the source writes them, or as a person would write them."""

import datetime
import json
import pickle
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from studio.data.conversations import read_conversations
from studio.data.scalars import WrittenFloat, scalar_text, without_table_nulls
from studio.recipe import DataSpec


def answers(path) -> list[str]:
    columns = {"question": "question", "answer": "answer"}
    data = DataSpec(source=str(path), format="question_answer", columns=columns)
    return [c.dropped or c.messages[-1]["content"] for c in read_conversations(data).conversations]


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
@pytest.mark.parametrize("written", ["true", "false", "1e5", "1E-3", "1.10", "-0.0", "7", "123456789012345678901"])
def test_data_16_scalars_of_json_are_trained_as_written(tmp_path, suffix, written):
    row = f'{{"question": "q", "answer": {written}}}'
    path = tmp_path / f"a.{suffix}"
    path.write_text(row + "\n" if suffix == "jsonl" else f"[{row}]")
    assert answers(path) == [written]


def test_data_16_scalars_in_turns_are_trained_as_written(tmp_path):
    turns = '[{"role": "user", "content": 1.50}, {"role": "assistant", "content": false}]'
    (tmp_path / "a.jsonl").write_text(f'{{"messages": {turns}}}\n')
    (row,) = read_conversations(DataSpec(source=str(tmp_path / "a.jsonl"))).conversations
    assert [message["content"] for message in row.messages] == ["1.50", "false"]


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (pa.array([Decimal("12.50")]), "12.50"),
        (pa.array([Decimal("1e3")], pa.decimal128(10, 0)), "1000"),
        (pa.array([datetime.date(2024, 1, 2)]), "2024-01-02"),
        (pa.array([datetime.datetime(2024, 1, 2, 3, 4, 5)], pa.timestamp("us")), "2024-01-02 03:04:05"),
        (pa.array([1_000_000_001], pa.timestamp("ns")), "1970-01-01 00:00:01.000000001"),
        (pa.array([datetime.time(1, 2)]), "01:02:00"),
        (pa.array([90], pa.duration("s")), "0:01:30"),
        (pa.array(["café".encode()]), "café"),
        (pa.array(["x"], pa.large_string()), "x"),
        (pa.array(["x"]).dictionary_encode(), "x"),
        (pa.array([True]), "true"),
        (pa.array([1.5], pa.float16()), "1.5"),
        (pa.array([7], pa.uint8()), "7"),
    ],
)
def test_data_16_the_types_of_a_table_become_text(tmp_path, array, text):
    pq.write_table(pa.table({"question": pa.array(["q"]), "answer": array}), tmp_path / "a.parquet")
    assert answers(tmp_path / "a.parquet") == [text]


def test_data_16_binary_data_is_no_text(tmp_path):
    pq.write_table(pa.table({"question": ["q"], "answer": [b"\xff\xd8\xff"]}), tmp_path / "a.parquet")
    assert "binary data" in answers(tmp_path / "a.parquet")[0]


def test_values_without_text_have_none():
    assert [scalar_text(value) for value in (None, [], {}, float("nan"), b"\xff", Decimal("NaN"))] == [None] * 6


def test_a_written_number_survives_pickling_and_is_a_number():
    number = pickle.loads(pickle.dumps(WrittenFloat("1e5")))
    assert (number, number.written, json.dumps([number])) == (100000.0, "1e5", "[100000.0]")


def test_nested_values_of_a_table_get_the_types_of_json():
    row = {"a": None, "b": {"n": None, "d": Decimal("2"), "when": datetime.date(2024, 1, 2), "m": [("k", 1)]}}
    assert without_table_nulls(row) == {"a": None, "b": {"d": 2, "when": "2024-01-02", "m": {"k": 1}}}
