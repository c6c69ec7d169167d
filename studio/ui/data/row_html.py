"""Rows as the trainer will see them, as HTML: bubbles beside the rendered template with the loss mask coloured.

A message and the tokens that it became carry the same ``data-turn``; assets/rows.js lights them up together.
"""

from __future__ import annotations

import json
import secrets
from html import escape
from typing import Any

from studio.data.conversations import Conversation
from studio.data.encode import IGNORE, Encoded
from studio.data.refusals import RefusedText
from studio.data.writer import message_thought

_SHOWN = 4000  # characters of a message
_TOKENS = '<div class="tokens mono" tabindex="0">'  # it scrolls, so the keyboard has to reach it
_HINT = "Point at a token to see its id, or at a message to see what it became."


def html(rows: list[tuple[Conversation, Encoded | str]], where: str = "") -> str:
    """The rows, the first one open. Hovering a token shows its id, its text and whether it is trained.

    Args:
        where: a sentence about which rows these are.
    """
    cards = "".join(_row(c, e, is_open=i == 0) for i, (c, e) in enumerate(rows))
    name = f"face-{secrets.token_hex(4)}"  # several of these may be on the page
    bar = (
        '<div class="facebar"><span><span class="swatch">highlighted</span> = trained on</span>'
        f'<span class="grow note">{escape(where)}</span>'
        f'<label><input type="radio" name="{name}" checked> Rendered text</label>'
        f'<label><input type="radio" name="{name}" class="face-tokens"> Show tokens</label></div>'
    )
    return f'<div class="faces">{bar}<div class="rows">{cards}</div></div>'


def _row(conversation: Conversation, encoded: Encoded | str, is_open: bool) -> str:
    opened = " open" if is_open else ""
    if isinstance(encoded, str):
        head = f'{_number(conversation)}<span class="s">left out: {escape(encoded)}</span>'
        if conversation.raw is None and getattr(encoded, "rendered", ""):
            body = (
                f"<div><h4>Conversation</h4>{_bubbles(conversation)}</div>"
                f"<div><h4>What the template writes</h4>{_TOKENS}{_refused(encoded)}</div></div>"
            )
        elif conversation.raw is None:
            body = f"<div><h4>Conversation</h4>{_bubbles(conversation)}</div>"
        else:
            raw = _short(json.dumps(conversation.raw, ensure_ascii=False, indent=1, default=str))
            title = "The row as it stands in the dataset"
            body = f'<div class="whole"><h4>{title}</h4>{_TOKENS}{raw}</div></div>'
        return f'<details{opened}><summary>{head}</summary><div class="row-body">{body}</div></details>'
    trained = sum(1 for label in encoded.labels if label != IGNORE)
    snippet = conversation.text or next((m["content"] for m in conversation.messages or [] if m["role"] == "user"), "")
    count = f"{len(encoded.input_ids):,} tokens"
    count += f", {trained:,} trained" if conversation.label is None else ""
    flag = f" · {encoded.cut:,} cut off" if encoded.cut else ""
    if encoded.dropped:
        flag = f" · left out: {encoded.dropped}"
    number = _number(conversation)
    if encoded.turn is not None:
        number = number.replace("</span>", f", reply {encoded.turn + 1}</span>")
    flags = "".join(f'<p class="note">{escape(str(flag))} <code>{flag.code}</code></p>' for flag in encoded.flags)
    head = (
        f"{number}{_class_tags(conversation)}"
        f'<span class="s" dir="auto">{escape(_visible_text(snippet[:160]))}</span>'
        f'<span class="t">{escape(count + flag)}</span>'
    )
    places = _places(conversation, encoded)
    body = (
        f"<div><h4>Conversation</h4>{_bubbles(conversation)}</div>"
        f"<div><h4>Model input (templated)</h4>{flags}{_TOKENS}{_tokens(encoded, places)}</div>"
        f'<p class="readout note">{_HINT}</p></div>'
    )
    return f'<details{opened}><summary>{head}</summary><div class="row-body">{body}</div></details>'


def _refused(reason: RefusedText) -> str:
    """The rendered row of a refusal, with the place marked."""
    start, end = reason.place or (len(reason.rendered),) * 2
    parts = (reason.rendered[max(0, start - _SHOWN) : start], reason.rendered[start:end], reason.rendered[end:])
    before, place, after = (escape(_visible_text(part[:_SHOWN])) for part in parts)
    return f"{before}<mark>{place or ('here' if reason.place else '')}</mark>{after}"


def _number(conversation: Conversation) -> str:
    times = f" ×{conversation.copies}" if conversation.copies > 1 else ""
    where = f' title="{escape(conversation.where)}"' if conversation.where else ""
    return f'<span class="n"{where}>row {conversation.row:,}{times}</span>'


def _class_tags(conversation: Conversation) -> str:
    """The classes of a text, each a small tag."""
    if conversation.label is None:
        return ""
    names = [conversation.label] if isinstance(conversation.label, str) else conversation.label
    return "".join(f'<span class="tag">{escape(_visible_text(name[:60]))}</span>' for name in names or ["no class"])


def _bubbles(conversation: Conversation) -> str:
    if conversation.messages is None:
        text = conversation.text or ("Token ids, as the dataset has them." if conversation.input_ids else "")
        return f'<div class="turns"><div class="turn" dir="auto">{_short(text)}</div></div>'
    turns = "".join(_turn(message, number) for number, message in enumerate(conversation.messages))
    names = ", ".join(str(tool["function"].get("name")) for tool in conversation.tools or [])
    tools = f'<div class="turn system"><small>functions</small>{escape(names)}</div>' if names else ""
    where = f'<p class="note">{escape(conversation.where)}</p>' if conversation.where else ""
    return f'{where}<div class="turns">{tools}{turns}</div>'


def _turn(message: dict[str, Any], number: int) -> str:
    """A message with what it thinks before, and the functions that it calls."""
    inner = ""
    if message.get("reasoning_content"):
        inner += f'<i class="thought">{_short(message_thought(message))}</i>'
    inner += _short(message["content"])
    for call in message.get("tool_calls") or []:
        arguments = call["function"].get("arguments")
        shown = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        inner += f'<code class="call">{escape(str(call["function"]["name"]))}({_short(shown)})</code>'
    role = escape(message["role"])
    name = f"{role}, no loss (training flag)" if message.get("train") is False else role
    return f'<div class="turn {role}" dir="auto" data-turn="{number}"><small>{name}</small>{inner}</div>'


def _short(text: str) -> str:
    """The first part of a text, escaped, and how much more there is."""
    more = f" … and {len(text) - _SHOWN:,} more characters" if len(text) > _SHOWN else ""
    return escape(_visible_text(text[:_SHOWN]) + more)


def bubble(role: str, content: str, more: str = "") -> str:
    """One turn of a conversation."""
    said = f"<small>{escape(role)}</small>{escape(_visible_text(content))}"
    return f'<div class="turn {escape(role)}{more}" dir="auto">{said}</div>'


def _places(conversation: Conversation, encoded: Encoded) -> list[tuple[int, int, int]]:
    """Where each message stands in the rendered text, for the eye alone: (start, end, number of the message)."""
    places, after = [], 0
    for number, message in enumerate(conversation.messages or []):
        said = message["content"].strip()
        start = encoded.text.find(said, after) if said else -1
        if start >= 0:
            after = start + len(said)
            places.append((start, after, number))
    return places


def _tokens(encoded: Encoded, places: list[tuple[int, int, int]]) -> str:
    """One span a token; tokens that share a character (an emoji in several bytes) are one span."""
    spans, index, total = [], 0, len(encoded.input_ids)
    coming = iter([*places, (len(encoded.text) + 1, len(encoded.text) + 1, -1)])
    first, beyond, turn = next(coming)
    while index < total:
        start, end = encoded.offsets[index]
        last = index
        while last + 1 < total and encoded.offsets[last + 1][0] < end:
            last += 1
            end = max(end, encoded.offsets[last][1])
        while start >= beyond:
            first, beyond, turn = next(coming)
        own = f' data-turn="{turn}"' if end > first else ""
        ids = ", ".join(str(i) for i in encoded.input_ids[index : last + 1])
        trained = encoded.labels[index] != IGNORE
        shown = _visible_text(encoded.text[start:end])
        said = f"token {ids} · {json.dumps(shown, ensure_ascii=False)} · {'trained' if trained else 'not trained'}"
        spans.append(f'<span class="k m{int(trained)}"{own} data-token="{escape(said)}">{escape(shown)}</span>')
        index = last + 1
    rest = encoded.text[encoded.offsets[-1][1] :] if encoded.cut and encoded.offsets else ""
    cut = f'<span class="cut" title="cut off by max_length">{escape(rest[:600])}</span>' if rest else ""
    return "".join(spans) + cut


def _visible_text(text: str) -> str:
    """Control and direction characters by their code, so that nothing hides."""
    shown = []
    for character in text:
        code = ord(character)
        hidden = (code < 32 and character not in "\n\t") or code == 127 or code in range(0x202A, 0x202F)
        hidden = hidden or code in range(0x2066, 0x206A) or code in (0x200B, 0x200E, 0x200F, 0xFEFF)
        shown.append(f"\\u{code:04x}" if hidden else character)
    return "".join(shown)
