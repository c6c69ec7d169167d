"""Special tokens of a tokenizer, and those that somebody has typed into the text of a message.

A typed token is replaced by a mark before the chat template is applied, and put back afterwards. So it is never
mistaken for one that the template writes, and its place in the rendered text is known exactly.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

Span = tuple[int, int]
_TAGS = frozenset(("<think>", "</think>", "<tool_call>", "</tool_call>"))  # a message may well contain these
_PRIVATE = range(0xE000, 0xF8FF)
_FIELDS = ("content", "reasoning_content", "tool_calls", "name")


@dataclass(frozen=True)
class Specials:
    """The tokens of a tokenizer that text is never split into.

    Attributes:
        every: special and added tokens, longest first.
        strips_left: those that take the whitespace before them.
        any_token: finds any of them; None if there is none.
        control: finds special tokens that should not occur in a message; None if there is none.
    """

    every: list[str]
    strips_left: frozenset[str]
    any_token: re.Pattern[str] | None
    control: re.Pattern[str] | None

    @classmethod
    def of(cls, tokenizer: Any) -> Specials:
        """Return those of a tokenizer."""
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        every = sorted({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()} - {""}, key=len, reverse=True)
        control = {*tokenizer.all_special_tokens, *(t.content for t in added if t.special)} - _TAGS - {""}
        return cls(every, frozenset(t.content for t in added if t.lstrip), _one_of(every), _one_of(control))

    def typed(self, text: str) -> list[Span]:
        """Return where special tokens stand in a text that somebody wrote."""
        return [match.span() for match in self.control.finditer(text)] if self.control else []


def _one_of(tokens: Iterable[str]) -> re.Pattern[str] | None:
    ordered = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None


@dataclass(frozen=True)
class Hidden:
    """A conversation in which each typed special token is replaced by a mark.

    Attributes:
        tokens: what the marks stand for.
        holders: the indices of the messages with such a token.
    """

    messages: list[dict]
    tools: list[dict] | None
    tokens: list[str]
    opening: str = ""
    holders: tuple[int, ...] = ()

    def reveal(self, text: str) -> tuple[str, list[Span], Callable[[int], int]]:
        """Put the tokens back into a rendered text.

        Returns:
            The text, where the typed tokens stand in it, and a function from old to new positions.
        """
        if not self.tokens:
            return text, [], lambda position: position
        pieces: list[str] = []
        typed: list[Span] = []
        ends, shifts = [0], [0]
        position = length = 0
        for match in re.finditer(f"{self.opening}(\\d+){self.opening}", text):
            token = self.tokens[int(match.group(1))]
            pieces += [text[position : match.start()], token]
            length += match.start() - position
            typed.append((length, length + len(token)))
            length += len(token)
            position = match.end()
            ends.append(position)
            shifts.append(length - position)
        pieces.append(text[position:])
        return "".join(pieces), typed, lambda old: old + shifts[bisect_right(ends, old) - 1]


def hide_typed(messages: list[dict], tools: list[dict] | None, specials: Specials) -> Hidden:
    """Replace each special token that somebody typed into a message, a call or a function's description."""
    control = specials.control
    holders = (
        [i for i, message in enumerate(messages) if any(map(control.search, _strings(message)))] if control else []
    )
    in_tools = bool(control and tools) and any(map(control.search, _texts(tools)))
    if not holders and not in_tools:
        return Hidden(messages, tools, [])
    every = "".join(chain(chain.from_iterable(map(_strings, messages)), _texts(tools)))
    opening = next(chr(code) for code in _PRIVATE if chr(code) not in every)
    tokens: list[str] = []

    def mark(match: re.Match[str]) -> str:
        if match.group() not in tokens:
            tokens.append(match.group())
        return f"{opening}{tokens.index(match.group())}{opening}"

    def hide(value: Any) -> Any:
        if isinstance(value, str):
            return control.sub(mark, value)
        if isinstance(value, list):
            return [hide(one) for one in value]
        return {hide(key): hide(one) for key, one in value.items()} if isinstance(value, dict) else value

    changed = [{**m, **{key: hide(m[key]) for key in _FIELDS if m.get(key)}} for m in messages]
    return Hidden(changed, hide(tools), tokens, opening, tuple(holders))


def _strings(message: dict) -> Iterator[str]:
    for key in _FIELDS:
        yield from _texts(message.get(key))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _texts(key)
            yield from _texts(one)
