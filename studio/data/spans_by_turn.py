"""Where an assistant's turn stands whose reasoning or tool calls the template writes in its own words.

Such a turn cannot be found by its content alone. It begins where a plain message in its place would begin, and it ends
where the conversation up to it ends; both are renderings of the same template, and the real rendering has to agree with
them to the letter. If it does not, the studio refuses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from studio.errors import StudioError

Span = tuple[int, int]
_THINK = "<think>"


def spans_by_turn(
    text: str,
    messages: list[dict],
    assistants: list[int],
    write: Callable[[list[dict]], str],
    specials: list[str],
) -> list[Span]:
    """A span for each assistant turn of a template without markers.

    Raises:
        StudioError: the template writes a turn in another way once more turns follow, leaves out what is called, or
            does not close it.
    """
    spans: list[Span] = []
    key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]  # nobody can have written it
    for number, index in enumerate(assistants):
        message, before = messages[index], messages[:index]
        mark = f"mark{key}x{number}x"
        header, found, _ = write([*before, {"role": "assistant", "content": mark}]).partition(mark)
        header = _without_empty_thought(header)
        whole = write([*before, message])
        if not found or not text.startswith(header) or not whole.startswith(header):
            raise inexact("it writes the same turns in another way when others follow")
        if not text.startswith(whole.rstrip()):
            raise inexact("it writes a turn with tool calls or reasoning in another way when others follow")
        for call in message.get("tool_calls") or []:
            if call["function"]["name"] not in whole[len(header) :]:
                raise inexact("it leaves out the functions that the assistant calls")
        end = len(whole.rstrip())
        if not any(whole.endswith(token, len(header), end) for token in specials):
            raise unclosed()
        spans.append((len(header), end))
    return spans


def _without_empty_thought(header: str) -> str:
    """A header without the empty thought that some templates put before an answer that has none."""
    bare = header.rstrip()
    if bare.endswith("</think>"):
        start = bare.rfind(_THINK)
        if start >= 0 and not bare[start + len(_THINK) : -len("</think>")].strip():
            return header[:start]
    return header


def special_at(text: str, position: int, specials: list[str]) -> str | None:
    """The special token that stands at a position of a text."""
    return next((token for token in specials if text.startswith(token, position)), None)


def unclosed() -> StudioError:
    """The refusal of a template that does not end a turn."""
    return StudioError(
        "The chat template does not close the assistant's turn with a special token, "
        "so a model tuned on it would not learn to stop.",
        "Set data.chat_template to chatml.",
        field="data.chat_template",
    )


def inexact(reason: str) -> StudioError:
    """The refusal of a template in which the assistant's turns cannot be told for certain."""
    return StudioError(
        f"The loss mask cannot be placed exactly for this chat template: {reason}.",
        "Use a template with {% generation %} markers, or set data.chat_template to chatml.",
        field="data.chat_template",
    )
