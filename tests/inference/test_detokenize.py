"""Incremental detokenisation."""

from __future__ import annotations

import pytest
from tiny import make_tiny_tokenizer

from studio.inference.detokenize import TextSoFar

SAMPLES = [
    "plain words",
    "Grüße, 日本語 and 🐙🦑!",
    "👩‍👩‍👧 family",
    " leading blank",
    "line\nbreak\n\n",
    "e\u0301 composed",
]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tiny_tokenizer(["<|endoftext|>"])


def pieces(tokenizer, ids: list[int]) -> list[str]:
    text = TextSoFar(lambda some: tokenizer.decode(some, skip_special_tokens=True))
    return [*(text.add([token]) for token in ids), text.end()]


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_pieces_together_are_the_whole_text(tokenizer, sample):
    assert "".join(pieces(tokenizer, tokenizer.encode(sample).ids)) == sample


@pytest.mark.parametrize("sample", SAMPLES)
def test_no_piece_holds_half_a_character(tokenizer, sample):
    assert all("\ufffd" not in piece for piece in pieces(tokenizer, tokenizer.encode(sample).ids))


def test_each_whole_character_is_shown_as_soon_as_it_is_whole(tokenizer):
    ids = tokenizer.encode("🐙a").ids
    assert len(ids) == 5, "four bytes and a letter"
    assert pieces(tokenizer, ids) == ["", "", "", "🐙", "a", ""]


def test_half_a_character_at_the_end_is_shown_as_broken_at_the_end_only(tokenizer):
    assert pieces(tokenizer, tokenizer.encode("a🐙").ids[:3]) == ["a", "", "", "\ufffd"]


def test_special_tokens_are_not_shown(tokenizer):
    ids = [*tokenizer.encode("one").ids, tokenizer.token_to_id("<|endoftext|>"), *tokenizer.encode(" two").ids]
    assert "".join(pieces(tokenizer, ids)) == "one two"
