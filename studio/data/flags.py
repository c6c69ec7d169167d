"""What can be said about an example that is used: stable codes, each with its severity, meaning and remedy."""

from __future__ import annotations

from dataclasses import dataclass

_SPLIT = "Turn on data.split_turns: one example per reply, each in the context that the model sees at inference."

FLAGS = {
    "context_mismatch": (
        "warn",
        "trained in another context than the model sees at inference",
        f"{_SPLIT} If that does not help, the generation prompt opens a thought that the reply does not have: choose "
        "another data.chat_template.",
    ),
    "reply_differs": ("warn", "an earlier reply is written differently than when it is the last one", _SPLIT),
    "reasoning_dropped": ("warn", "the chat template leaves out the reasoning of earlier replies", _SPLIT),
    "header_untrained": (
        "warn",
        "the template's markers leave out text that the model must write before its reply",
        "Use a chat template whose generation prompt ends where the reply begins.",
    ),
    "tools_not_rendered": (
        "warn",
        "the chat template does not show the functions that may be called",
        "Set data.chat_template to one with a place for tools.",
    ),
    "empty_reply": ("warn", "empty replies, which carry no loss", "Write the replies, or remove the turns."),
    "special_token_in_text": (
        "warn",
        "a special token is written in the text",
        "Set data.special_tokens_in_text to text to tokenise it as ordinary text.",
    ),
    "end_token_cut": (
        "note",
        "the end of a reply is cut off by max_length, with the token that ends it",
        "Raise max_length, so that the model learns to stop there.",
    ),
    "masked_by_flag": ("note", "replies that carry no loss by their training flag", "Nothing needs to be done."),
    "no_generation_prompt": (
        "note",
        "the chat template has no generation prompt",
        "The studio adds the header of the reply itself; other software may not.",
    ),
}
"""Code -> (``warn`` or ``note``, what it says about the rows, what to do)."""


@dataclass(frozen=True)
class Flag:
    """Something to know about an example.

    Attributes:
        code: a key of ``FLAGS``.
        message: the index of the message that it is about, or None if it is about the whole row.
        detail: the text in question, if there is one.
    """

    code: str
    message: int | None = None
    detail: str = ""

    def __str__(self) -> str:
        where = "" if self.message is None else f"message {self.message + 1}: "
        return f"{where}{FLAGS[self.code][1]}" + (f" ({self.detail})" if self.detail else "")
