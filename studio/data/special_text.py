"""Special tokens of a tokenizer, and those that somebody has typed into the text of a message.

A typed token is replaced by a mark before the chat template is applied, and put back afterwards. So it is never
mistaken for one that the template writes, and its place in the rendered text is known exactly. A mark is a word of
letters and digits, which no template escapes; a row in which one does not come back whole is refused.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

Span = tuple[int, int]
_TAGS = frozenset(("<think>", "</think>", "<tool_call>", "</tool_call>"))  # a message may well contain these
_SURE = 12  # letters of a mark by which a damaged one is known
_FIELDS = ("content", "reasoning_content", "tool_calls", "name")
_OPTIONAL = ("reasoning_content", "name")  # a template may leave them out; studio.data.completeness says where


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
        tokens: what the marks stand for, one for each place.
        opening: what every mark begins with.
        holders: the indices of the messages with such a token.
        needed: the numbers of the marks in each of these messages that the rendered text must hold; those of the
            functions' descriptions under None.
    """

    messages: list[dict]
    tools: list[dict] | None
    tokens: list[str]
    opening: str = ""
    holders: tuple[int, ...] = ()
    needed: dict[int | None, range] = field(default_factory=dict)

    @property
    def _mark(self) -> re.Pattern[str]:
        return re.compile(f"{self.opening}(\\d+)x")

    def is_damaged(self, text: str) -> bool:
        """Return whether a rendered text holds a mark that is not whole."""
        return bool(self.tokens) and self.opening[:_SURE] in self._mark.sub(" ", text).lower()

    def missing(self, text: str) -> list[int | None]:
        """Return the messages (None: the functions) of which a typed token does not come back in a rendered text."""
        if not self.tokens:
            return []
        found = {int(match.group(1)) for match in self._mark.finditer(text)}
        return [index for index, numbers in self.needed.items() if not found.issuperset(numbers)]

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
        for match in self._mark.finditer(text):
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
    opening = _opening("".join(chain(chain.from_iterable(map(_strings, messages)), _texts(tools))))
    tokens: list[str] = []

    def mark(match: re.Match[str]) -> str:
        tokens.append(match.group())
        return f"{opening}{len(tokens) - 1}x"

    def hide(value: Any) -> Any:
        if isinstance(value, str):
            return control.sub(mark, value)
        if isinstance(value, list):
            return [hide(one) for one in value]
        return {hide(key): hide(one) for key, one in value.items()} if isinstance(value, dict) else value

    changed, needed = [], {}
    for index, message in enumerate(messages):
        first = len(tokens)
        hidden = {key: hide(message[key]) for key in _FIELDS if key not in _OPTIONAL and message.get(key)}
        needed[index] = range(first, len(tokens))
        hidden |= {key: hide(message[key]) for key in _OPTIONAL if message.get(key)}
        changed.append({**message, **hidden})
    first = len(tokens)
    tools = hide(tools)
    needed[None] = range(first, len(tokens))
    return Hidden(changed, tools, tokens, opening, tuple(holders), needed)


def _opening(text: str) -> str:
    """Return what marks begin with: letters and digits that do not occur in a text."""
    lower = text.lower()
    for salt in count():
        digest = hashlib.sha256(f"{salt}:{text}".encode("utf-8", "surrogatepass")).hexdigest()
        opening = f"typed{digest[:16]}x"
        if opening[:_SURE] not in lower:
            return opening
    raise AssertionError("count does not end")


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
