"""Whether everything that is said in a conversation stands in the rendered text. No text is lost silently."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from studio.data.flags import Flag
from studio.data.refusals import TYPED, message_lost, reasoning_lost
from studio.data.special_text import Hidden
from studio.data.turns import split_reasoning
from studio.data.writer import message_thought

_WHO = {"system": "the system message", "user": "what the user says", "tool": "what the tool returns"}


def check_complete(
    text: str, chat: list[dict], hidden: Hidden, marks: dict[tuple[int, str], str], marked: str | None
) -> list[Flag]:
    """Look for every part of a conversation in its rendered text.

    Args:
        chat: the messages as the template was given them.
        hidden: the conversation with marks in place of typed special tokens.
        marks: for parts of messages, (index, ``content`` or ``reasoning_content``), the word that stood in their place
            in a second rendering, ``marked``: a part whose word is not there is left out. None where the template
            refuses the words.

    Returns:
        Reasoning of earlier replies and functions that are left out.

    Raises:
        RowRefused: a message, a call or the last reply's reasoning is left out.
    """
    flags: list[Flag] = []
    asked = max((i for i, m in enumerate(chat) if m["role"] == "user"), default=-1)

    def is_there(index: int, key: str, part: str) -> bool:
        word = marks.get((index, key))
        return (marked is None or word is None or word in marked) and stands_in(part, text)

    for index, message in enumerate(chat):
        content = message.get("content") or ""
        thought = message_thought(message) if message.get("reasoning_content") else ""
        lost = bool(thought.strip()) and not is_there(index, "reasoning_content", thought)
        if not is_there(index, "content", content):
            inline, said = split_reasoning(content) if message["role"] == "assistant" else ("", "")
            if not inline or not stands_in(said, text):
                who = _WHO.get(message["role"], "what the assistant says")
                raise message_lost(index, who, text, _after(text, chat[:index]))
            lost = True
        if lost and index > asked:
            raise reasoning_lost(index, text, _after(text, chat[:index]))
        if lost:
            flags.append(Flag("reasoning_dropped", index, _short(hidden.reveal(thought or content)[0])))
        if missing := _missing_call(message, text):
            part = f"a part of the assistant's function call ({_short(hidden.reveal(missing)[0])})"
            raise message_lost(index, part, text, _after(text, chat[:index]))
    tools = hidden.tools
    if tools and not all(stands_in(str(tool["function"].get("name", "")), text) for tool in tools):
        flags.append(Flag("tools_not_rendered"))
    _check_typed(text, chat, hidden, {None if flag.code == "tools_not_rendered" else flag.message for flag in flags})
    return flags


def _check_typed(text: str, chat: list[dict], hidden: Hidden, left_out: set[int | None]) -> None:
    """Refuse a text in which a special token that somebody typed does not come back as it was typed.

    Args:
        left_out: messages with a part that is left out knowingly; None for the functions.
    """
    lost = [index for index in hidden.missing(text) if index not in left_out]
    if lost or hidden.is_damaged(text):
        index = next((i for i in (*lost, *hidden.holders) if i is not None), 0)
        raise message_lost(index, TYPED, text, _after(text, chat))


def _after(text: str, chat: list[dict]) -> int:
    """Where the text goes on after some messages, as far as their contents stand in it in their order."""
    position = 0
    for message in chat:
        content = (message.get("content") or "").strip()
        found = text.find(content, position) if content else -1
        position = position if found < 0 else found + len(content)
    return position


def stands_in(part: str, text: str) -> bool:
    """Return whether a part stands in a text: to the letter, without the blanks around it, or as a JSON string."""
    part = part.strip()
    if part in text:
        return True
    return any(json.dumps(part, ensure_ascii=ascii)[1:-1] in text for ascii in (False, True))


def _missing_call(message: dict, text: str) -> str | None:
    """The first part of a message's function calls that is not in the text."""
    for call in message.get("tool_calls") or []:
        function = call["function"]
        arguments = function.get("arguments")
        if isinstance(arguments, str):  # JSON text, which the template may write anew
            with contextlib.suppress(ValueError):
                arguments = json.loads(arguments)
        for part in [function["name"], *_leaves(arguments)]:
            if not stands_in(part, text):
                return part
    return None


def _leaves(value: Any) -> Iterator[str]:
    """The keys and plain values of a call's arguments, as text."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield json.dumps(value)


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 60 else f"{flat[:59]}…"
