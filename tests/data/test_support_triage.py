"""The built-in data set `support-triage`: what its files promise."""

import importlib.util
import json
import re
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "datasets" / "support-triage"
PRODUCTS = ("router", "printer", "camera", "kettle", "speaker")
INTENTS = ("refund", "repair", "question", "delivery")
URGENCIES = ("low", "medium", "high")
COMBINATIONS = list(product(PRODUCTS, INTENTS, URGENCIES))


def read(split):
    text = (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def splits():
    return {"train": read("train"), "test": read("test")}


@pytest.fixture(scope="module")
def rows(splits):
    return splits["train"] + splits["test"]


def content(row, role):
    return next(message["content"] for message in row["messages"] if message["role"] == role)


def labels(row):
    return tuple(json.loads(content(row, "assistant")).values())


def words(row):
    return content(row, "user").split()


def test_there_are_300_training_rows_and_60_test_rows(splits):
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 300, "test": 60}


def test_every_row_is_one_system_one_user_and_one_assistant_message(rows):
    shapes = {tuple(message["role"] for message in row["messages"]) for row in rows}
    assert shapes == {("system", "user", "assistant")}
    assert {tuple(row) for row in rows} == {("messages",)}


def test_all_rows_share_one_short_system_prompt_that_gives_no_label_away(rows):
    prompts = {content(row, "system") for row in rows}
    assert len(prompts) == 1
    prompt = re.findall(r"\w+", prompts.pop().casefold())
    assert len(prompt) <= 15
    assert not set(prompt) & {*PRODUCTS, *INTENTS, *URGENCIES}


def test_no_ticket_occurs_twice_within_or_across_the_splits(rows):
    tickets = Counter(" ".join(word.casefold() for word in words(row)) for row in rows)
    assert [ticket for ticket, count in tickets.items() if count > 1] == []


def test_every_answer_is_one_line_of_json_with_the_three_keys_and_known_labels(rows):
    for row in rows:
        answer = content(row, "assistant")
        assert "\n" not in answer
        parsed = json.loads(answer)
        assert list(parsed) == ["product", "intent", "urgency"]
        assert labels(row) in COMBINATIONS
        assert answer == json.dumps(parsed)


def test_every_combination_occurs_five_times_in_training(splits):
    assert Counter(map(labels, splits["train"])) == dict.fromkeys(COMBINATIONS, 5)


def test_every_combination_occurs_once_in_the_test(splits):
    assert Counter(map(labels, splits["test"])) == dict.fromkeys(COMBINATIONS, 1)


def test_every_ticket_has_12_to_45_words(rows):
    assert [row for row in rows if not 12 <= len(words(row)) <= 45] == []


def test_no_ticket_names_a_product_other_than_its_own(rows):
    for row in rows:
        named = {name for name in PRODUCTS if name in content(row, "user").casefold()}
        assert named <= {labels(row)[0]}


def test_no_slot_of_a_phrase_is_left_unfilled(rows):
    assert [row for row in rows if re.search(r"[{}]", content(row, "user"))] == []


def test_the_generator_reproduces_both_files_byte_for_byte():
    spec = importlib.util.spec_from_file_location("support_triage_make", FOLDER / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    for split, rows in make.generate().items():
        assert make.render(rows).encode("utf-8") == (FOLDER / f"{split}.jsonl").read_bytes()
