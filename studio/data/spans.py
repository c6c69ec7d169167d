"""Where the assistant's turns stand in a rendered chat template, exactly, or a refusal with the reason.

Two ways, neither of them a guess:

- A template with ``{% generation %}`` markers says itself what the assistant wrote. A second rendering, with a mark in
  place of each message that cannot occur in the text, shows whether the markers hold what the assistant says and nobody
  else.
- For any other template the second rendering has such a mark in place of each assistant message. The pieces between
  the marks are what the template adds. Putting the real messages back between the pieces must give the real rendering
  to the letter; then every place is known. If it does not, the template rewrites what the assistant says, and the
  studio refuses it.

A turn's span runs from its first character to the end of its end-of-turn token, which is the special token that the
template puts after the message: a model that is not trained on it does not learn to stop. What the assistant thinks
before it answers, and the tools that it calls, belong to its turn.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jinja2

from studio.data.spans_by_turn import Span, inexact, spans_by_turn, special_at, unclosed
from studio.data.turns import split_reasoning
from studio.errors import StudioError

REFUSALS = (
    *(jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError),
    *(RecursionError, MemoryError),
)
"""What a chat template raises that cannot write a conversation."""
_COMMENTS = re.compile(r"\{#.*?#\}", re.DOTALL)
_MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Rendered:
    """A conversation as the chat template writes it: the ``text``, and the character spans that the assistant writes.

    ``last`` is the number of the first span of the last turn; a turn may have several.
    """

    text: str
    spans: list[Span]
    last: int = -1


class Thoughtless(StudioError):
    """A chat template leaves out the assistant's reasoning."""


def has_markers(chat_template: str) -> bool:
    """Whether a template marks what the assistant wrote with ``{% generation %}``."""
    return _MARKERS.search(chat_template) is not None


def render(
    tokenizer: Any, messages: list[dict], tools: list[dict] | None = None, specials: list[str] | None = None
) -> Rendered:
    """Render a conversation with the tokenizer's chat template and find the assistant's turns in it.

    Args:
        specials: ``special_tokens(tokenizer)``, where many conversations are rendered one after the other.

    Raises:
        StudioError: the tokenizer has no template, the template refuses the conversation, or it cannot be masked
            exactly.
    """
    template = _template(tokenizer, tools)
    specials = special_tokens(tokenizer) if specials is None else specials
    try:
        return _rendered(tokenizer, template, fitted(template, messages), tools, specials)
    except StudioError as error:
        calls = [m for m in messages if m.get("tool_calls")]
        thoughts = [m for m in messages if m.get("reasoning_content") or "</think>" in (m.get("content") or "")]
        if calls:  # some templates want the arguments as text
            with contextlib.suppress(StudioError):
                return _rendered(tokenizer, template, fitted(template, _with_text_arguments(messages)), tools, specials)
        if thoughts and isinstance(error, Thoughtless):  # it has a place for reasoning that it does not use
            with contextlib.suppress(StudioError):
                return _rendered(tokenizer, template, fitted(template, messages, thinks=False), tools, specials)
        raise


def _rendered(
    tokenizer: Any, template: str, messages: list[dict], tools: list[dict] | None, specials: list[str]
) -> Rendered:
    write = _writer(tokenizer, tools)
    assistants = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    marked = has_markers(template)
    text, spans = write(messages, marked)
    _check_whole(text, messages)

    def plainly(chat: list[dict]) -> str:
        return write(chat, False)[0]

    if marked:
        closing = [token for token in specials if token != _opener(text, tokenizer, specials)]
        spans = _marked_spans(text, spans, closing)
        if len(spans) < len(assistants):
            raise StudioError(
                "The chat template marks fewer turns with {% generation %} than the assistant has.",
                "Choose another data.chat_template, for example chatml.",
                field="data.chat_template",
            )
        turns = [[spans[i] for i in own] for own in _said(text, len(spans), messages, write, closing)]
    elif any(m.get("tool_calls") or m.get("reasoning_content") for m in messages):
        turns = [[span] for span in spans_by_turn(text, messages, assistants, plainly, specials)]
    else:
        turns = [[span] for span in _spans_by_marks(text, messages, assistants, plainly, specials)]
    for own in turns:
        own[-1] = _through_eos(text, own[-1], specials, tokenizer.eos_token)
    return Rendered(text, [span for own in turns for span in own], sum(map(len, turns[:-1])))


def _check_whole(text: str, messages: list[dict]) -> None:
    """Refuse a text that lacks what is said beside a call, or what is thought before the last answer."""
    asked = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)
    for index, message in enumerate(messages):
        if message.get("tool_calls") and message["content"].strip() not in text:
            raise inexact("it leaves out what the assistant says beside a call")
        if index > asked and message.get("reasoning_content") and message_thought(message).strip() not in text:
            raise Thoughtless(
                "The chat template leaves out what the assistant thinks before it answers.",
                "Set data.reasoning to drop, or choose another data.chat_template.",
                field="data.reasoning",
            )


def _with_text_arguments(messages: list[dict]) -> list[dict]:
    """The messages with the arguments of every call as JSON text."""

    def texts(call: dict) -> dict:
        arguments = call["function"].get("arguments")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        return {**call, "function": {**call["function"], "arguments": arguments}}

    return [{**m, "tool_calls": [texts(c) for c in m["tool_calls"]]} if m.get("tool_calls") else m for m in messages]


def render_text(tokenizer: Any, messages: list[dict], tools: list[dict] | None = None) -> str:
    """Render a conversation with the tokenizer's chat template, where nobody asks who says what.

    Raises:
        StudioError: the tokenizer has no template, or the template refuses the conversation.
    """
    return _writer(tokenizer, tools)(fitted(_template(tokenizer, tools), messages), False)[0]


def leaves_out(tokenizer: Any) -> list[str]:
    """What the tokenizer's chat template has no place for, and what is done instead, in sentences."""
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


def _writer(tokenizer: Any, tools: list[dict] | None) -> Callable[[list[dict], bool], tuple[str, list[Span]]]:
    """A function of a conversation, and of whether to follow the markers: the text, and what the markers hold."""
    template = _template(tokenizer, tools)
    return lambda chat, marked: _write(template, chat, tools, marked, tokenizer.special_tokens_map)


def _template(tokenizer: Any, tools: list[dict] | None) -> str:
    if not tokenizer.chat_template:
        raise StudioError(
            "This model has no chat template.", "Set data.chat_template to chatml.", field="data.chat_template"
        )
    return tokenizer.get_chat_template(tools=tools)


def _write(template: str, chat: list[dict], tools: Any, marked: bool, variables: dict) -> tuple[str, list[Span]]:
    from transformers.utils.chat_template_utils import render_jinja_template

    chat = [{k: v for k, v in message.items() if v is not None} for message in chat]
    try:
        texts, spans = render_jinja_template(
            [chat], tools=tools, chat_template=template, return_assistant_tokens_mask=marked, **variables
        )
    except jinja2.TemplateSyntaxError as error:
        raise StudioError(
            f"The chat template is broken at line {error.lineno}: {error.message}.",
            "Mend the template, or set data.chat_template to chatml.",
            field="data.chat_template",
        ) from error
    except REFUSALS as error:
        raise StudioError(
            f"The chat template refuses this conversation: {str(error) or type(error).__name__}.",
            "Mend the row (often the order of the roles), or set data.chat_template to chatml.",
            field="data.chat_template",
        ) from error
    return texts[0], list(spans[0]) if spans and marked else []


def special_tokens(tokenizer: Any) -> list[str]:
    """Every token that ordinary text is never split into: the special and the added ones, longest first."""
    return sorted({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()} - {""}, key=len, reverse=True)


def fitted(template: str, messages: list[dict], *, thinks: bool = True) -> list[dict]:
    """The messages in the form that a template has a place for: tool calls and reasoning as fields, or as text.

    Args:
        thinks: whether reasoning may be a field.
    """
    template = _COMMENTS.sub("", template)
    calls = "tool_calls" in template
    thinks = thinks and ("reasoning_content" in template or ".thinking" in template)
    return [_fitted(message, calls, thinks) for message in messages]


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


def message_thought(message: dict) -> str:
    """What the assistant thinks in a message, without the blanks around it."""
    return message["reasoning_content"].strip("\n")


def _as_text(calls: list[dict]) -> str:
    """Calls as the Hermes models write them."""
    return "\n".join(f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>" for call in calls)


def _opener(text: str, tokenizer: Any, specials: list[str]) -> str | None:
    """The special token that a conversation begins with: it opens turns and closes none."""
    start = len(tokenizer.bos_token) if tokenizer.bos_token and text.startswith(tokenizer.bos_token) else 0
    return special_at(text, start, specials)


def _to_end_of_turn(text: str, span: Span, specials: list[str]) -> Span:
    """A marked span that ends just after its end-of-turn token, whether the markers stopped before or after it."""
    start, end = span
    trimmed = len(text[start:end].rstrip()) + start
    if any(text.endswith(token, start, trimmed) for token in specials):
        return start, trimmed
    blank = end + len(text[end:]) - len(text[end:].lstrip())
    token = special_at(text, blank, specials)
    return (start, blank + len(token)) if token else (start, end)


def _through_eos(text: str, span: Span, specials: list[str], eos: str | None) -> Span:
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


def _marked_spans(text: str, spans: list[Span], specials: list[str]) -> list[Span]:
    return [_to_end_of_turn(text, span, specials) for span in spans if span[1] > span[0]]


def _marks(text: str, indices: list[int]) -> dict[int, str]:
    """For each message a mark that does not occur in ``text`` (nor in any other mark)."""
    key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return {i: f"mark{key}x{n}x" for n, i in enumerate(indices)}


def _called(message: dict, name: str) -> dict:
    """The message with another name for the last function that it calls."""
    *others, last = message["tool_calls"]
    return {**message, "tool_calls": [*others, {**last, "function": {**last["function"], "name": name}}]}


def _put_in(messages: list[dict], marks: dict[int, str]) -> list[dict]:
    return [{**m, "content": marks[i]} if i in marks else m for i, m in enumerate(messages)]


def _said(text: str, count: int, messages: list[dict], write: Callable, specials: list[str]) -> list[list[int]]:
    """For each assistant turn the numbers of the marked spans that hold it, of so many in ``text``.

    A turn may have several (its thought, what it says, each call); it ends with the first that ends with a special
    token once its words have come. What is marked after that, as some templates do at the end of the text, is no turn.

    Raises:
        StudioError: markers do not hold what the assistant says up to an end-of-turn token, or they hold anybody else.
    """
    plain = [i for i, m in enumerate(messages) if isinstance(m.get("content"), str)]
    calling = {i for i in plain if messages[i].get("tool_calls")}
    marks = _marks(text, plain)
    named = [_called(m, marks[i]) if i in calling else m for i, m in enumerate(messages)]  # a call is found by its name
    marked, spans = write(_put_in(named, {i: mark for i, mark in marks.items() if i not in calling}), True)
    spans = _marked_spans(marked, spans, specials)
    if len(spans) != count:
        raise inexact("it marks other places when other words are said")
    places = {i: marked.find(mark) for i, mark in marks.items()}
    turns, taken = [], 0
    for i, place in places.items():
        held = place >= 0 and any(start <= place < end for start, end in spans)
        if messages[i]["role"] != "assistant":
            if held:
                raise inexact(f"its markers hold what the {messages[i]['role']} says")
            continue
        if not held:
            raise inexact("its markers do not hold what the assistant says")
        before = max((other for other in places.values() if other < place), default=-1)
        after = min((other for other in places.values() if other > place), default=len(marked))
        own = []
        for number in range(taken, len(spans)):
            start, end = spans[number]
            if start >= after:
                raise unclosed()
            if start > before:
                own.append(number)
            if end > place and any(marked.endswith(token, start, end) for token in specials):
                break
        else:
            raise unclosed()
        if spans[own[-1]][1] > after:
            raise unclosed()
        turns.append(own)
        taken = own[-1] + 1
    return turns


def _spans_by_marks(
    text: str,
    messages: list[dict],
    assistants: list[int],
    write: Callable[[list[dict]], str],
    specials: list[str],
) -> list[Span]:
    if not assistants:
        return []
    marks = _marks(text, assistants)
    pieces, rest = [], write(_put_in(messages, marks))
    for mark in marks.values():
        before, found, rest = rest.partition(mark)
        if not found or mark in rest:
            raise inexact("it leaves out or repeats what the assistant says")
        pieces.append(before)
    pieces.append(rest)

    for change in (str, str.strip, str.rstrip, str.lstrip):  # templates often trim their messages
        contents = [change(messages[i].get("content") or "") for i in assistants]
        spans = _put_together(text, pieces, contents)
        if spans is not None:
            return [_end_of_turn(text, span, specials) for span in spans]
    raise inexact("it rewrites what the assistant says")


def _put_together(text: str, pieces: list[str], contents: list[str]) -> list[Span] | None:
    spans, position = [], 0
    for piece, content in zip(pieces, contents, strict=False):
        if not text.startswith(piece + content, position):
            return None
        start = position + len(piece)
        position = start + len(content)
        spans.append((start, position))
    return spans if text[position:] == pieces[-1] else None


def _end_of_turn(text: str, span: Span, specials: list[str]) -> Span:
    start, end = span
    blank = end + len(text[end:]) - len(text[end:].lstrip())
    token = special_at(text, blank, specials)
    if token is None:
        raise unclosed()
    return start, blank + len(token)
