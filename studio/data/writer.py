"""Conversations as a tokenizer's chat template writes them, and the prompt of a reply. One function for both uses.

:meth:`Writer.prompt` is the text from which a reply is generated: the chat calls it, and the encoder calls it to know
what the model does not have to learn. So the two cannot differ.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from typing import Any

import jinja2

from studio.data.special_text import Span
from studio.data.turns import split_reasoning
from studio.errors import StudioError

REFUSALS = (
    *(jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError),
    *(RecursionError, MemoryError),
)
"""What a chat template raises that cannot write a conversation."""
_COMMENTS = re.compile(r"\{#.*?#\}", re.DOTALL)
_MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_POSITIONS = re.compile(r"last|loop\.(rev|next|length)|\[\s*-\s*1|length|think|reason|::")
_NOT_RENDERED = ("train",)  # keys of a message that are the studio's own


class Writer:
    """A tokenizer's chat template with the functions of one conversation.

    Attributes:
        template: the Jinja text.
        marked: whether it marks what the assistant wrote with ``{% generation %}``.
        positional: whether it may write the same message differently where other messages follow it.
        has_prompt: whether it knows a generation prompt.
    """

    def __init__(self, tokenizer: Any, tools: list[dict] | None = None):
        if not tokenizer.chat_template:
            raise StudioError(
                "This model has no chat template.",
                "Set data.chat_template to chatml.",
                field="data.chat_template",
                code="no_chat_template",
            )
        self.template: str = tokenizer.get_chat_template(tools=tools)
        self._source = _COMMENTS.sub("", self.template)
        self._tools, self._variables = tools, tokenizer.special_tokens_map
        self.marked = has_markers(self.template)
        self.positional = bool(_POSITIONS.search(self._source))
        self.has_prompt = "add_generation_prompt" in self._source

    def fitted(self, messages: list[dict], *, thinks: bool = True) -> list[dict]:
        """Return the messages in the form that the template has a place for: calls and reasoning as fields or as text.

        Args:
            thinks: whether reasoning may be a field.
        """
        calls = "tool_calls" in self._source
        thinks = thinks and ("reasoning_content" in self._source or ".thinking" in self._source)
        return [_fitted(message, calls, thinks) for message in messages]

    def text(self, chat: list[dict], *, generation_prompt: bool = False) -> str:
        """Return fitted messages as text.

        Raises:
            StudioError: the template is broken or refuses the messages.
        """
        return self._write(chat, False, generation_prompt)[0]

    def text_and_marked(self, chat: list[dict]) -> tuple[str, list[Span]]:
        """Return fitted messages as text, and the spans that the template's markers hold."""
        return self._write(chat, self.marked, False)

    def prompt(self, messages: list[dict]) -> str:
        """Return the text up to where the model's reply to these messages begins.

        A template without a generation prompt gets what it writes before the words of a reply, unless that is blank.

        Raises:
            StudioError: the template is broken or refuses the messages.
        """
        chat = self.fitted(messages)
        try:
            return self._prompt(chat)
        except StudioError:
            if any(message.get("tool_calls") for message in chat):
                with contextlib.suppress(StudioError):
                    return self._prompt(with_text_arguments(chat))
            raise

    def _prompt(self, chat: list[dict]) -> str:
        before = self.text(chat, generation_prompt=True)
        if self.has_prompt:
            return before
        mark = mark_for(before, 0)
        header, found, _ = self.text([*chat, {"role": "assistant", "content": mark}]).partition(mark)
        same = next((i for i, (a, b) in enumerate(zip(header, before, strict=False)) if a != b), len(before))
        return header if found and header[same:].strip() else before

    def _write(self, chat: list[dict], marked: bool, generation_prompt: bool) -> tuple[str, list[Span]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        chat = [{k: v for k, v in m.items() if v is not None and k not in _NOT_RENDERED} for m in chat]
        try:
            texts, spans = render_jinja_template(
                [chat],
                tools=self._tools,
                chat_template=self.template,
                return_assistant_tokens_mask=marked,
                add_generation_prompt=generation_prompt,
                **self._variables,
            )
        except jinja2.TemplateSyntaxError as error:
            raise StudioError(
                f"The chat template is broken at line {error.lineno}: {error.message}.",
                "Correct the template, or set data.chat_template to chatml.",
                field="data.chat_template",
                code="template_broken",
            ) from error
        except REFUSALS as error:
            raise StudioError(
                f"The chat template refuses this conversation: {str(error) or type(error).__name__}.",
                "Correct the row (often the order of the roles), or set data.chat_template to chatml.",
                field="data.chat_template",
                code="template_refused",
            ) from error
        return texts[0], list(spans[0]) if spans and marked else []


def has_markers(chat_template: str) -> bool:
    """Return whether a template marks what the assistant wrote with ``{% generation %}``."""
    return _MARKERS.search(chat_template) is not None


def mark_for(text: str, number: int) -> str:
    """Return a word that occurs neither in ``text`` nor in the mark of another number."""
    key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"mark{key}x{number}x"


def with_text_arguments(messages: list[dict]) -> list[dict]:
    """Return the messages with the arguments of every call as JSON text."""

    def texts(call: dict) -> dict:
        arguments = call["function"].get("arguments")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        return {**call, "function": {**call["function"], "arguments": arguments}}

    return [{**m, "tool_calls": [texts(c) for c in m["tool_calls"]]} if m.get("tool_calls") else m for m in messages]


def leaves_out(tokenizer: Any) -> list[str]:
    """Return what the tokenizer's chat template has no place for, and what is done instead, in sentences."""
    template = tokenizer.chat_template
    text = "".join(template.values()) if isinstance(template, dict) else template or ""
    notes = []
    if "tools" not in text:
        notes.append("The chat template has no place for tools: the model is not told which functions there are.")
    if "tool_calls" not in text:
        notes.append(
            "The chat template has no place for tool calls: they are written as text between <tool_call> tags."
        )
    return notes


def message_thought(message: dict) -> str:
    """Return the reasoning of a message, without the line breaks around it."""
    return message["reasoning_content"].strip("\n")


def _fitted(message: dict, calls: bool, thinks: bool) -> dict:
    if message.get("content") is None:
        message = {**message, "content": ""}
    if message["role"] != "assistant":
        return message
    content = message["content"]
    if thinks and not message.get("reasoning_content") and "</think>" in content and isinstance(content, str):
        thought, said = split_reasoning(content)
        if thought:
            message = {**message, "content": said, "reasoning_content": thought}
    elif not thinks and message.get("reasoning_content"):
        message = {k: v for k, v in message.items() if k != "reasoning_content"} | {
            "content": f"<think>\n{message_thought(message)}\n</think>\n\n{content}"
        }
    if message.get("tool_calls") and not calls:
        message = {k: v for k, v in message.items() if k != "tool_calls"} | {
            "content": "\n".join(part for part in (message["content"], _as_text(message["tool_calls"])) if part)
        }
    return message


def _as_text(calls: list[dict]) -> str:
    """Calls as the Hermes models write them."""
    return "\n".join(f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>" for call in calls)
