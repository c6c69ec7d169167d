"""Rows as HTML: every token with its id, linked to the message that it came from, and no markup of the data's own."""

import re
from html import unescape

import pytest
from tiny import make_tiny_chat_model
from transformers import AutoTokenizer

from studio.data.conversations import Conversation
from studio.data.encode import encode_conversation
from studio.ui.data import row_html


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(make_tiny_chat_model(tmp_path_factory.mktemp("model")))


def shown(tokenizer, *said: str) -> tuple[str, list[tuple[str, str | None, str]]]:
    """The HTML, and (what is told, message, text) of each token of a conversation that alternates."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
    page = row_html.html([(Conversation(1, messages), encode_conversation(tokenizer, messages))])
    parts = re.findall(r'<span class="k m[01]"(?: data-turn="(\d+)")? data-token="([^"]*)">(.*?)</span>', page, re.S)
    return page, [(unescape(told), turn or None, unescape(text)) for turn, told, text in parts]


def test_every_token_tells_its_id_and_whether_it_is_trained(tokenizer):
    messages = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "Here."}]
    encoded = encode_conversation(tokenizer, messages)
    _, tokens = shown(tokenizer, "Where is it?", "Here.")
    assert len(tokens) == len(encoded.input_ids)
    for (told, _, _), token, label in zip(tokens, encoded.input_ids, encoded.labels, strict=True):
        assert told.startswith(f"token {token} · ")
        assert told.endswith(" · not trained" if label == -100 else " · trained")


def test_the_tokens_of_a_message_carry_its_number_and_no_others_do(tokenizer):
    _, tokens = shown(tokenizer, "one two", "three", "one two", "four")
    said = ["".join(text for _, turn, text in tokens if turn == str(number)).strip() for number in range(4)]
    assert said == ["one two", "three", "one two", "four"]
    assert any(turn is None for _, turn, _ in tokens)


def test_markup_in_a_message_stays_text(tokenizer):
    page, tokens = shown(tokenizer, "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>')
    assert "<script" not in page
    assert "<img" not in page
    assert "<script>alert(1)</script>" in "".join(text for _, _, text in tokens)


def test_direction_marks_and_control_characters_are_shown_by_their_code(tokenizer):
    page, _ = shown(tokenizer, "a\u202eb\x07c", "\u2066d")
    for code in ("\\u202e", "\\u0007", "\\u2066"):
        assert code in page
    assert not set(page) & set("\u202e\x07\u2066")


def test_data_02_a_message_that_is_excluded_from_the_loss_says_so_in_its_bubble(tokenizer):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": False}]
    page = row_html.html([(Conversation(1, messages), encode_conversation(tokenizer, messages))])
    assert re.findall(r"<small>(\w+)(.*?)</small>", page) == [("user", ""), ("assistant", ", no loss (training flag)")]
