"""Files of prompts: one reader for suites and for ``compare --prompts``, which no file breaks."""

from __future__ import annotations

import json
import os

import pytest

from studio.cli import models
from studio.errors import StudioError
from studio.evaluation.prompt_files import ENDINGS
from studio.evaluation.suites import load_suite


def prompts_of(path) -> list[str]:
    return [prompt.text for prompt in load_suite(path).prompts]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '["one", {"prompt": "two\\nlines"}]'),
        ("a.json", '[\n  {"prompt": "one"},\n  {"prompt": "two\\nlines"}\n]\n'),
        ("a.jsonl", '{"prompt": "one"}\n"two\\nlines"\n'),
        ("a.csv", 'prompt\none\n"two\nlines"\n'),
    ],
)
def test_results_07_suites_and_compare_read_the_same_prompts_of_a_file(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert prompts_of(tmp_path / name) == models._read_prompts(tmp_path / name) == ["one", "two\nlines"]


def test_results_07_a_json_suite_keeps_references_tags_and_checks(tmp_path):
    rows = [{"prompt": "7 + 8?", "reference": "15", "tags": ["sum"], "check": {"number": 15}}, "Second?"]
    (tmp_path / "mine.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    first, second = load_suite(tmp_path / "mine.json").prompts
    assert (first.reference, first.tags, first.check) == ("15", ("sum",), {"number": 15})
    assert second.text == "Second?"


def test_results_07_one_object_is_one_prompt_and_a_broken_item_is_named(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"prompt": "only"}', encoding="utf-8")
    assert prompts_of(path) == ["only"]
    path.write_text('["fine", {"question": "x"}]', encoding="utf-8")
    with pytest.raises(StudioError, match="item 2"):
        load_suite(path)


def test_results_07_the_page_takes_every_ending_that_is_read():
    assert set(ENDINGS) == {".jsonl", ".ndjson", ".json", ".csv", ".txt"}


def test_compare_refuses_a_conversation_instead_of_asking_a_part_of_it(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "x", "system": "Be brief."}), encoding="utf-8")
    with pytest.raises(StudioError) as caught:
        models._read_prompts(path)
    assert caught.value.code == "not-a-prompt"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "1" + 400 * "0", "1" * 5000])
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_results_10_a_suite_with_a_number_that_is_none_is_refused(tmp_path, number, ending):
    path = tmp_path / f"s.{ending}"
    path.write_text(f'{{"prompt": "x", "check": {{"number": {number}}}}}', encoding="utf-8")
    with pytest.raises(StudioError):
        load_suite(path)


HOSTILE = {
    "binary.json": os.urandom(300) + b"\xff",
    "nul.txt": b"\xff\x00",
    "deep.json": b"[" * 200_000,
    "deep-check.jsonl": b'{"prompt": "x", "check": {"json": ' + b"[" * 300 + b"]" * 300 + b"}}",
    "deep-all.jsonl": b'{"prompt": "x", "check": ' + b'{"all": [' * 300 + b'{"words": 1}' + b"]}" * 300 + b"}",
    "deep.csv": b'prompt,check\nx,"' + b"[" * 100_000 + b'"\n',
    "half-a-character.jsonl": b'{"prompt": "\\ud800"}',
    "number-as-id.jsonl": json.dumps({"prompt": "x", "id": "i" * 100_000}).encode(),
    "long-tag.jsonl": json.dumps({"prompt": "x", "tags": ["t" * 100_000]}).encode(),
    "many-tags.jsonl": json.dumps({"prompt": "x", "tags": [f"t{n}" for n in range(5000)]}).encode(),
    "long-reference.jsonl": json.dumps({"prompt": "x", "reference": "r" * 200_000}).encode(),
    "list.jsonl": b'[["x"]]',
    "roles.jsonl": b'{"messages": [{"role": ["user"], "content": "x"}]}',
    "null.json": b"null",
    "number.json": b"5",
    "nothing.json": b"",
    "no-columns.csv": b"\n\n",
    "field.csv": b'prompt\n"' + b"x" * 200_000 + b'"\n',
    "memory.jsonl": b'{"prompt": "x", "check": {"regex": "(?:a{10000}){10000}"}}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_a_short_message(tmp_path, name):
    (tmp_path / name).write_bytes(HOSTILE[name])
    with pytest.raises(StudioError) as caught:
        load_suite(tmp_path / name)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("path", ["/dev/zero", "a\0b", "~nobody-here/x.json", "x" * 5000, "/", ".", ""])
def test_what_is_no_file_is_refused(path):
    with pytest.raises(StudioError) as caught:
        load_suite(path)
    assert caught.value.code == "no-suite"
    assert len(str(caught.value)) < 2000
