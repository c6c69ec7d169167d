"""Refusals of a row by the encoder: each has a code, and shows the rendered row and the place where it went wrong."""

from __future__ import annotations

from studio.data.special_text import Span
from studio.errors import StudioError


class RowRefused(StudioError):
    """A row that the chat template cannot write so that it can be trained on.

    Attributes:
        text: the row as the template writes it; empty if the template writes nothing.
        place: the characters of ``text`` that are at fault, if they are known.
    """

    def __init__(
        self,
        what: str,
        fix: str,
        field: str | None = None,
        code: str = "",
        text: str = "",
        place: Span | None = None,
    ):
        super().__init__(what, fix, field, code)
        self.text = text
        self.place = place

    def __reduce__(self):
        return (type(self), (self.what, self.fix, self.field, self.code, self.text, self.place))


class ReasoningLost(RowRefused):
    """A chat template leaves out the reasoning of the reply that comes last."""


TYPED = "or changes a special token that is written in the text"


def unclosed(text: str = "", place: Span | None = None) -> RowRefused:
    """Return the refusal of a template that does not end a turn."""
    return RowRefused(
        "The chat template does not close the assistant's turn with a special token, "
        "so a model tuned on it would not learn to stop.",
        "Set data.chat_template to chatml.",
        field="data.chat_template",
        code="turn_not_closed",
        text=text,
        place=place,
    )


def inexact(reason: str, text: str = "", place: Span | None = None) -> RowRefused:
    """Return the refusal of a template in which the assistant's turns cannot be located for certain."""
    return RowRefused(
        f"The loss mask cannot be placed exactly for this chat template: {reason}.",
        "Use a template with {% generation %} markers, or set data.chat_template to chatml.",
        field="data.chat_template",
        code="mask_not_exact",
        text=text,
        place=place,
    )


def message_lost(message: int, part: str, text: str, place: int) -> RowRefused:
    """Return the refusal of a template that leaves a message out, which should stand at ``place`` or behind it."""
    return RowRefused(
        f"The chat template leaves out {part} (message {message + 1}).",
        "Remove the message, or set data.chat_template to one with a place for it.",
        field="data.chat_template",
        code="message_lost",
        text=text,
        place=(place, place),
    )


def reasoning_lost(message: int, text: str, place: int) -> ReasoningLost:
    """Return the refusal of a template that leaves out the reasoning of the last reply."""
    return ReasoningLost(
        f"The chat template leaves out the reasoning of the assistant (message {message + 1}).",
        "Set data.reasoning to drop, or choose another data.chat_template.",
        field="data.reasoning",
        code="reasoning_lost",
        text=text,
        place=(place, place),
    )


class RefusedText(str):
    """The reason for a refusal as text, with its code, the rendered row and the place in it."""

    code: str
    rendered: str
    place: Span | None

    @classmethod
    def of(cls, error: StudioError) -> RefusedText:
        """Return the reason of an error; the rendered row is empty where the error has none."""
        made = cls(f"{error.what} {error.fix}")
        made.code = error.code
        made.rendered = getattr(error, "text", "")
        made.place = getattr(error, "place", None)
        return made
