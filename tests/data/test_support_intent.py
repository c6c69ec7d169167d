"""The built-in data set `support-intent`: what its files promise."""

import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest

from studio.data import classes_of
from studio.data.sources import builtin_names
from studio.recipe import DataSpec

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "datasets" / "support-intent"
INTENTS = ("billing", "cancel", "delivery", "fault", "login", "refund")


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("support_intent_make", FOLDER / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(split):
    return [json.loads(line) for line in (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("split", "each"), [("train", 68), ("test", 14)])
def test_every_intent_occurs_equally_often(split, each):
    assert Counter(row["label"] for row in read(split)) == dict.fromkeys(INTENTS, each)


def test_no_message_occurs_twice_within_or_across_the_splits():
    texts = Counter(" ".join(row["text"].casefold().split()) for row in read("train") + read("test"))
    assert [text for text, count in texts.items() if count > 1] == []


def test_most_test_messages_state_their_intent_in_a_sentence_of_their_own(make):
    def words(sentence):
        return {word for word in sentence.lower().rstrip(".?").split() if "{" not in word}

    new = 0
    for row in read("test"):
        seen, held_out = make.pool(make.CORES[row["label"]])
        said = set(row["text"].lower().replace(",", " ").replace(".", " ").replace("?", " ").split())
        new += max(len(words(s) & said) / len(words(s)) for s in held_out) > max(
            len(words(s) & said) / len(words(s)) for s in seen
        )
    assert new / 84 > 0.6


def test_no_slot_is_left_unfilled():
    assert [row for row in read("train") + read("test") if "{" in row["text"]] == []


def test_the_generator_reproduces_both_files_byte_for_byte(make):
    for split, rows in make.generate().items():
        assert make.render(rows).encode("utf-8") == (FOLDER / f"{split}.jsonl").read_bytes()


def test_it_is_built_in_and_its_classes_are_found(home):
    assert "builtin/support-intent" in builtin_names()
    assert classes_of(DataSpec(source="builtin/support-intent"), seed=0).names == INTENTS
