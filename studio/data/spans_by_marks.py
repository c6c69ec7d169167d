"""The assistant's turns in a rendered conversation, found by words that stand in place of the messages.

The conversation is rendered a second time with a word in place of each message that cannot occur in the text. It shows
what a template's ``{% generation %}`` markers hold, or which pieces the template puts between the messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from studio.data.refusals import inexact, unclosed
from studio.data.spans_by_turn import special_at
from studio.data.special_text import Span
from studio.data.turns import split_reasoning
from studio.data.writer import Writer, mark_for

Marks = dict[tuple[int, str], str]
"""For parts of messages, (index, ``content``, ``reasoning_content`` or ``name`` of a call), the words."""


def make_marks(text: str, chat: list[dict]) -> Marks:
    """For each part of a message a word that does not occur in ``text`` (nor in any other word)."""
    marks: Marks = {}
    for index, message in enumerate(chat):
        if message.get("reasoning_content"):
            marks[index, "reasoning_content"] = ""
        if isinstance(message.get("content"), str) and not message.get("tool_calls"):
            marks[index, "content"] = ""
        if message.get("tool_calls"):
            marks[index, "name"] = ""
    return {part: mark_for(text, number) for number, part in enumerate(marks)}


def put_in(chat: list[dict], marks: Marks) -> list[dict]:
    """The messages with the words in place of their parts; a call is found by its name."""
    changed = [dict(message) for message in chat]
    for (index, key), word in marks.items():
        changed[index] = _called(changed[index], word) if key == "name" else {**changed[index], key: word}
    return changed


def _called(message: dict, name: str) -> dict:
    """The message with another name for the last function that it calls."""
    *others, last = message["tool_calls"]
    return {**message, "tool_calls": [*others, {**last, "function": {**last["function"], "name": name}}]}


def opener(text: str, tokenizer: Any, specials: Sequence[str]) -> str | None:
    """The special token that a conversation begins with: it opens turns and closes none."""
    start = len(tokenizer.bos_token) if tokenizer.bos_token and text.startswith(tokenizer.bos_token) else 0
    return special_at(text, start, specials)


def _to_end_of_turn(text: str, span: Span, specials: Sequence[str]) -> Span:
    """A marked span that ends just after its end-of-turn token, whether the markers stopped before or after it."""
    start, end = span
    trimmed = len(text[start:end].rstrip()) + start
    if any(text.endswith(token, start, trimmed) for token in specials):
        return start, trimmed
    blank = end + len(text[end:]) - len(text[end:].lstrip())
    token = special_at(text, blank, specials)
    return (start, blank + len(token)) if token else (start, end)


def through_eos(text: str, span: Span, specials: Sequence[str], eos: str | None) -> Span:
    """A span through the tokenizer's end token where a turn is closed by several special tokens, as Cohere's are."""
    start, end = span
    if not eos or text.endswith(eos, start, end):
        return span
    place = end
    while token := special_at(text, place, specials):
        place += len(token)
        if token == eos:
            return start, place
    return span


def marked_spans(text: str, spans: list[Span], specials: Sequence[str]) -> list[Span]:
    return [_to_end_of_turn(text, span, specials) for span in spans if span[1] > span[0]]


def turns_by_markers(
    text: str, count: int, chat: list[dict], marks: Marks, other: tuple[str, list[Span]], specials: Sequence[str]
) -> list[list[int]]:
    """For each assistant turn the numbers of the marked spans that hold it, of so many in ``text``.

    A turn may have several (its thought, what it says, each call); it ends with the first that ends with a special
    token once its words have come. What is marked after that, as some templates do at the end of the text, is no turn.

    Raises:
        StudioError: markers do not hold what the assistant says up to an end-of-turn token, or they hold anybody else.
    """
    marked, spans = other
    spans = marked_spans(marked, spans, specials)
    if len(spans) != count:
        raise inexact("it marks other places when other words are said", text)
    places = {i: marked.find(word) for (i, key), word in marks.items() if key != "reasoning_content"}
    turns, taken = [], 0
    for i, place in places.items():
        held = place >= 0 and any(start <= place < end for start, end in spans)
        if chat[i]["role"] != "assistant":
            if held:
                raise inexact(f"its markers hold what the {chat[i]['role']} says", text)
            continue
        if not held:
            raise inexact("its markers do not hold what the assistant says", text)
        before = max((other for other in places.values() if other < place), default=-1)
        after = min((other for other in places.values() if other > place), default=len(marked))
        own = []
        for number in range(taken, len(spans)):
            start, end = spans[number]
            if start >= after:
                raise unclosed(text)
            if start > before:
                own.append(number)
            if end > place and any(marked.endswith(token, start, end) for token in specials):
                break
        else:
            raise unclosed(text)
        if spans[own[-1]][1] > after:
            raise unclosed(text)
        turns.append(own)
        taken = own[-1] + 1
    return turns


def spans_by_marks(
    text: str,
    chat: list[dict],
    assistants: list[int],
    writer: Writer,
    marks: Marks,
    other: tuple[str, list[Span]] | None,
    specials: Sequence[str],
) -> list[Span]:
    """The assistant's turns by the pieces that the template puts between the messages, or between the replies."""
    if not assistants:
        return []
    spans = _between(text, chat, marks, other[0]) if other else None
    if spans is None:  # it repeats or rewrites what others say
        own = {part: word for part, word in marks.items() if part[0] in assistants}
        marked = writer.text(put_in(chat, own))
        if any(marked.count(word) != 1 for word in own.values()):
            raise inexact("it leaves out or repeats what the assistant says", text)
        spans = _between(text, chat, own, marked)
    if spans is None:
        raise inexact("it rewrites what the assistant says", text)
    return [_end_of_turn(text, spans[i], specials) for i in assistants]


def _between(text: str, chat: list[dict], marks: Marks, marked: str) -> dict[int, Span] | None:
    """Where each message with a word stands, if the real messages between the pieces give the text; else None."""
    pieces, rest = [], marked
    for word in marks.values():
        before, found, rest = rest.partition(word)
        if not found or word in rest:
            return None
        pieces.append(before)
    pieces.append(rest)
    spans, position = {}, 0
    for number, (index, _) in enumerate(marks):
        piece, following = pieces[number], pieces[number + 1]
        start = position + len(piece)
        if not text.startswith(piece, position):
            return None
        last = number == len(marks) - 1
        for said in _ways(chat[index]):
            end = start + len(said)
            whole = not last or end + len(following) == len(text)
            if whole and text.startswith(said, start) and text.startswith(following, end):
                break
        else:
            return None
        spans[index] = (start, end)
        position = end
    return spans


def _ways(message: dict) -> list[str]:
    """How a template may write a message's content: templates often trim it, and some drop the reasoning in it."""
    content = message["content"]
    ways = [content, content.strip(), content.rstrip(), content.lstrip()]
    if message["role"] == "assistant" and "</think>" in content:
        said = split_reasoning(content)[1]
        ways += [said, said.strip(), content.split("</think>")[-1], content.split("</think>")[-1].strip()]
    return list(dict.fromkeys(ways))


def _end_of_turn(text: str, span: Span, specials: Sequence[str]) -> Span:
    start, end = span
    blank = end + len(text[end:]) - len(text[end:].lstrip())
    token = special_at(text, blank, specials)
    if token is None:
        raise unclosed(text, span)
    return start, blank + len(token)
