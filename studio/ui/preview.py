"""Rows as the trainer will see them, as HTML: bubbles beside the rendered template with the loss mask coloured."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from itertools import islice
from typing import Any

from studio.data import encode_row, read_conversations
from studio.data.conversations import Conversation
from studio.data.encode import IGNORE, Encoded
from studio.data.formats import SHAPES, Mapping
from studio.errors import StudioError
from studio.recipe import Recipe

SHOWN_ROWS = 20


@dataclass(frozen=True)
class Preview:
    """The first rows of a dataset: what was found, the real columns, and each row with its encoding or its problem."""

    mapping: Mapping
    columns: list[str]
    rows: list[tuple[Conversation, Encoded | str]]
    notes: list[str]


def load(recipe: Recipe, tokenizer: Any, notes: list[str], start: int = 1, count: int = SHOWN_ROWS) -> Preview:
    """Read and encode ``count`` rows, from the row numbered ``start`` on, with the encoder of the training.

    Raises:
        StudioError: the source cannot be read or its shape is not known.
    """
    reading = read_conversations(recipe.data, start=start)
    rows: list[tuple[Conversation, Encoded | str]] = []
    for conversation in islice(reading.conversations, count):
        if conversation.dropped:
            rows.append((conversation, conversation.dropped))
            continue
        try:
            encoded = encode_row(tokenizer, conversation.content(), recipe.data)
        except StudioError as error:
            rows.append((conversation, f"{error.what} {error.fix}"))
            continue
        rows.append((conversation, encoded))
    return Preview(reading.mapping, reading.columns, rows, notes)


def parts(mapping: Mapping) -> list[str]:
    """The parts of the found format that a column can play, the needed ones first."""
    shape = SHAPES[mapping.format]
    return [*shape.required, *shape.optional]


def html(preview: Preview) -> str:
    """The rows, the first one open. Hovering a token shows its id and whether it is trained."""
    cards = "".join(_row(c, e, is_open=i == 0) for i, (c, e) in enumerate(preview.rows))
    bar = (
        '<div class="facebar"><span><span class="swatch">coloured</span> tokens carry the loss</span>'
        '<span class="grow"></span>'
        '<label><input type="radio" name="face" checked> Rendered text</label>'
        '<label><input type="radio" name="face" id="face-tokens"> Token edges</label></div>'
    )
    return f'<div class="faces">{bar}<div class="rows">{cards}</div></div>'


def _row(conversation: Conversation, encoded: Encoded | str, is_open: bool) -> str:
    opened = " open" if is_open else ""
    if isinstance(encoded, str):
        head = f'<span class="n">row {conversation.row}</span><span class="s">left out: {escape(encoded)}</span>'
        return (
            f'<details{opened}><summary>{head}</summary><div class="row-body">{_bubbles(conversation)}</div></details>'
        )
    trained = sum(1 for label in encoded.labels if label != IGNORE)
    snippet = conversation.text or next((m["content"] for m in conversation.messages or [] if m["role"] == "user"), "")
    count = f"{len(encoded.input_ids):,} tokens, {trained:,} trained"
    flag = f" · {encoded.cut:,} cut off" if encoded.cut else ""
    if encoded.dropped:
        flag = f" · left out: {encoded.dropped}"
    head = (
        f'<span class="n">row {conversation.row}</span><span class="s" dir="auto">{escape(snippet[:160])}</span>'
        f'<span class="t">{escape(count + flag)}</span>'
    )
    body = (
        f"<div><h4>Conversation</h4>{_bubbles(conversation)}</div>"
        f'<div><h4>What the model is given</h4><div class="tokens mono">{_tokens(encoded)}</div></div>'
    )
    return f'<details{opened}><summary>{head}</summary><div class="row-body">{body}</div></details>'


def _bubbles(conversation: Conversation) -> str:
    if conversation.messages is None:
        return f'<div class="turns"><div class="turn" dir="auto">{escape((conversation.text or "")[:4000])}</div></div>'
    turns = "".join(bubble(m["role"], m["content"]) for m in conversation.messages)
    return f'<div class="turns">{turns}</div>'


def bubble(role: str, content: str, more: str = "") -> str:
    """One turn of a conversation."""
    return f'<div class="turn {escape(role)}{more}" dir="auto"><small>{escape(role)}</small>{escape(content)}</div>'


def _tokens(encoded: Encoded) -> str:
    """One span a token; tokens that share a character (an emoji in several bytes) are one span."""
    spans, index, total = [], 0, len(encoded.input_ids)
    while index < total:
        start, end = encoded.offsets[index]
        last = index
        while last + 1 < total and encoded.offsets[last + 1][0] < end:
            last += 1
            end = max(end, encoded.offsets[last][1])
        ids = ", ".join(str(i) for i in encoded.input_ids[index : last + 1])
        trained = encoded.labels[index] != IGNORE
        title = f"token {ids} · {'trained' if trained else 'not trained'}"
        spans.append(f'<span class="k m{int(trained)}" title="{title}">{_visible(encoded.text[start:end])}</span>')
        index = last + 1
    rest = encoded.text[encoded.offsets[-1][1] :] if encoded.cut and encoded.offsets else ""
    cut = f'<span class="cut" title="cut off by max_length">{escape(rest[:600])}</span>' if rest else ""
    return "".join(spans) + cut


def _visible(text: str) -> str:
    """Control and direction characters by their code, so that nothing hides."""
    shown = []
    for character in text:
        code = ord(character)
        hidden = (code < 32 and character not in "\n\t") or code == 127 or code in range(0x202A, 0x202F)
        hidden = hidden or code in range(0x2066, 0x206A) or code in (0x200B, 0x200E, 0x200F, 0xFEFF)
        shown.append(f"\\u{code:04x}" if hidden else character)
    return escape("".join(shown))
