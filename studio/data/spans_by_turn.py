"""Where an assistant's turn stands whose reasoning or tool calls the template writes in its own words.

Such a turn cannot be found by its content alone. It begins where its generation prompt ends, and it ends as the
conversation up to it ends; both are renderings of the same template, and the real rendering has to agree with them to
the letter. A template may write the turn without its reasoning, or with another end-of-turn token, once more turns
follow; the check of completeness says what is missing then. If nothing agrees, the row is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from studio.data.refusals import inexact, unclosed
from studio.data.special_text import Span
from studio.data.writer import Writer, mark_for
from studio.errors import StudioError

_THINK = "<think>"
_EMPTY = re.compile(r"\s*<think>\s*</think>\s*")
_BLOCK = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)


def spans_by_turn(
    text: str,
    messages: list[dict],
    assistants: list[int],
    writer: Writer,
    specials: Sequence[str],
    prompts: dict[int, int],
) -> list[Span]:
    """Find a span for each assistant turn of a template without markers.

    Args:
        prompts: for each turn whose generation prompt the text begins with, the length of that prompt.

    Raises:
        StudioError: the template writes a turn differently once more turns follow, or does not close it.
    """
    spans: list[Span] = []
    for number, index in enumerate(assistants):
        before, message = messages[:index], messages[index]
        after = spans[-1][1] if spans else 0
        header = _header(text, before, number, writer)
        start = prompts.get(index)
        if start is None:
            start = _start(text, after, before, header, specials)
        if start is None:
            raise inexact("it writes the same turns differently when others follow", text, (after, after))
        end = next(_ends(text, start, before, message, header, writer, specials), None)
        if end is None:
            raise inexact(
                "it writes a turn with tool calls or reasoning differently when others follow", text, (start, start)
            )
        if not any(text.endswith(token, start, end) for token in specials):
            raise unclosed(text, (start, end))
        spans.append((start, end))
    return spans


def _header(text: str, before: list[dict], number: int, writer: Writer) -> str:
    """What the template writes before a plain reply to some messages; empty if it refuses one there."""
    mark = mark_for(text, number)
    try:
        header, found, _ = writer.text([*before, {"role": "assistant", "content": mark}]).partition(mark)
    except StudioError:
        return ""
    return _without_empty_thought(header) if found else ""


def _start(text: str, after: int, before: list[dict], header: str, specials: Sequence[str]) -> int | None:
    """Where a reply begins that the text does not begin with the prompt of.

    Either the text begins with its header all the same, or the header's last special token, with what follows it, is
    looked for behind the message before. What is found must then agree with the reply to the letter.
    """
    if header and text.startswith(header):
        return len(header)
    last = max((header.rfind(token) for token in specials), default=-1)
    content = (before[-1].get("content") or "").strip() if before else ""
    said = text.find(content, after)
    if last < 0 or said < 0:
        return None
    tail = header[last:]
    found = text.find(tail, said + len(content))
    return found + len(tail) if found >= 0 else None


def _ends(
    text: str,
    start: int,
    before: list[dict],
    message: dict,
    header: str,
    writer: Writer,
    specials: Sequence[str],
) -> Iterator[int]:
    """Where the turn that begins at ``start`` ends, by each way of writing it that the text agrees with."""
    bare = {key: value for key, value in message.items() if key != "reasoning_content"}
    thought = _EMPTY.match(text, start)
    begins = [start, *([thought.end()] if thought else [])]
    for chat in ([*before, message], [*before, bare]):
        try:
            whole = writer.text(chat).rstrip()
        except StudioError:  # it does not take the turn as the last one
            continue
        supplied = next((known for known in (text[:start], header) if known and whole.startswith(known)), "")
        for written in _ways(whole[len(supplied) :], message.get("content") or ""):
            token = next((token for token in specials if written.endswith(token)), "")
            for begin in begins:
                if text.startswith(written, begin):
                    yield begin + len(written)
                body = begin + len(written) - len(token)
                if token and text.startswith(written[: -len(token)], begin):
                    other = special_at(text, body, specials)
                    if other:
                        yield body + len(other)


def _ways(turn: str, content: str) -> list[str]:
    """How a turn may be written where others follow: also without a thought, or with its content not trimmed."""
    bare = _BLOCK.sub("", turn, count=1)
    trimmed = content.strip()
    ways = [turn, bare]
    if trimmed and trimmed != content:
        for said in (content, content.lstrip(), content.rstrip()):
            ways += [way.replace(trimmed, said, 1).rstrip() for way in (turn, bare)]
    return [way for way in dict.fromkeys(ways) if way]


def _without_empty_thought(header: str) -> str:
    """A header without the empty thought that some templates put before an answer that has none."""
    bare = header.rstrip()
    if bare.endswith("</think>"):
        start = bare.rfind(_THINK)
        if start >= 0 and not bare[start + len(_THINK) : -len("</think>")].strip():
            return header[:start]
    return header


def special_at(text: str, position: int, specials: Sequence[str]) -> str | None:
    """Return the special token that stands at a position of a text."""
    return next((token for token in specials if text.startswith(token, position)), None)
