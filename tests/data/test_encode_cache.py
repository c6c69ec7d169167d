"""Rows are encoded once, by several processes where there are many, and the examples are those of the encoder."""

import json

import pytest

from studio.data import encode_cache, encode_once, encode_rows, load_conversations, split_conversations
from studio.data.encode_cache import FOLDER
from studio.data.load import fingerprint
from studio.errors import StudioError
from studio.recipe import DataSpec
from studio.workspace import Workspace


@pytest.fixture
def data(home, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"question": f"What is {n} plus {n}?", "answer": f"It is {2 * n} ☃."} for n in range(40)]
    rows[7]["answer"] = ""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return DataSpec(source=str(path), max_length=64)


@pytest.fixture
def never(monkeypatch):
    """From here on nothing may be encoded."""

    def begin():
        def refuse(*_, **__):
            raise AssertionError("it was encoded again")

        monkeypatch.setattr(encode_cache, "encode_rows", refuse)
        monkeypatch.setattr(encode_cache, "_in_parallel", refuse)

    return begin


def bare(found):
    kept, dropped = found
    return [(one.input_ids, one.labels, one.cut, one.label, one.row) for one in kept], dropped


def test_the_second_time_nothing_is_encoded_and_the_examples_are_the_same(tiny_tokenizer, data, never):
    rows = load_conversations(data)
    first = encode_once(tiny_tokenizer, rows, data)
    assert bare(first) == bare(encode_rows(tiny_tokenizer, rows, data))
    never()
    said = []
    again = encode_once(tiny_tokenizer, load_conversations(data), data, said.append)
    assert again == first
    assert said == [len(rows)]


@pytest.mark.parametrize("change", [{"max_length": 40}, {"train_on": "all"}, {"invalid_rows": "drop"}])
def test_another_setting_of_the_encoder_encodes_anew(tiny_tokenizer, data, change):
    rows = load_conversations(data)
    encode_once(tiny_tokenizer, rows, data)
    other = data.model_copy(update=change)
    assert bare(encode_once(tiny_tokenizer, rows, other)) == bare(encode_rows(tiny_tokenizer, rows, other))


def test_another_template_or_another_token_encodes_anew(tiny_tokenizer, data):
    rows = load_conversations(data)
    before = encode_once(tiny_tokenizer, rows, data)[0][0].input_ids
    template = tiny_tokenizer.chat_template
    try:
        tiny_tokenizer.chat_template = template + "a"
        assert encode_once(tiny_tokenizer, rows, data)[0][0].input_ids != before
    finally:
        tiny_tokenizer.chat_template = template


def test_a_changed_file_is_encoded_anew(tiny_tokenizer, data):
    count = len(encode_once(tiny_tokenizer, load_conversations(data), data)[0])
    with open(data.source, "a", encoding="utf-8") as file:
        file.write('{"question": "New?", "answer": "Yes."}\n')
    assert len(encode_once(tiny_tokenizer, load_conversations(data), data)[0]) == count + 1


def test_both_sides_of_a_split_are_kept_apart(tiny_tokenizer, data, never):
    sides = [encode_once(tiny_tokenizer, side, data) for side in split_conversations(load_conversations(data), data, 0)]
    assert not {one.row for one in sides[0][0]} & {one.row for one in sides[1][0]}
    never()
    again = split_conversations(load_conversations(data), data, 0)
    assert [encode_once(tiny_tokenizer, side, data) for side in again] == sides
    other = split_conversations(load_conversations(data), data, 1)[1]
    assert other["row"] != again[1]["row"]


def test_several_processes_give_the_same_examples_in_the_same_order(tiny_tokenizer, data, monkeypatch):
    monkeypatch.setattr(encode_cache, "PARALLEL_ROWS", 10)
    monkeypatch.setattr(encode_cache, "_CHUNK", 7)
    said = []
    rows = load_conversations(data)
    found = encode_once(tiny_tokenizer, rows, data, said.append, processes=2)
    assert bare(found) == bare(encode_rows(tiny_tokenizer, rows, data))
    assert said[-1] == len(rows)


def test_a_refusal_in_another_process_names_its_row(tiny_tokenizer, data, monkeypatch):
    monkeypatch.setattr(encode_cache, "PARALLEL_ROWS", 10)
    monkeypatch.setattr(encode_cache, "_CHUNK", 7)
    template = tiny_tokenizer.chat_template
    refusing = "{% if '12 plus' in messages[0].content %}{{ raise_exception('no twelve') }}{% endif %}" + template
    try:
        tiny_tokenizer.chat_template = refusing
        with pytest.raises(StudioError, match=r"Row 13: .*no twelve"):
            encode_once(tiny_tokenizer, load_conversations(data), data, processes=2)
    finally:
        tiny_tokenizer.chat_template = template


def test_a_broken_file_is_made_anew(tiny_tokenizer, data):
    rows = load_conversations(data)
    first = encode_once(tiny_tokenizer, rows, data)
    for path in Workspace.current().folder(FOLDER).iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert encode_once(tiny_tokenizer, rows, data) == first


def test_only_the_newest_are_kept(tiny_tokenizer, data, monkeypatch):
    monkeypatch.setattr(encode_cache, "MOST_KEPT", 2)
    rows = load_conversations(data)
    for length in (60, 61, 62, 63):
        encode_once(tiny_tokenizer, rows, data.model_copy(update={"max_length": length}))
    assert len(list(Workspace.current().folder(FOLDER).iterdir())) == 2


def test_rows_of_another_origin_are_not_kept(tiny_tokenizer, data):
    import datasets

    rows = datasets.Dataset.from_list([{"row": 1, "text": "Some text.", "messages": None}])
    encode_once(tiny_tokenizer, rows, data.model_copy(update={"train_on": "all"}))
    assert not (Workspace.current().root / FOLDER).exists()


def test_the_fingerprint_is_that_of_the_rows_also_the_second_time(data):
    rows = load_conversations(data)
    first = fingerprint(rows)
    assert fingerprint(load_conversations(data)) == first == fingerprint(rows.select(range(len(rows))))
