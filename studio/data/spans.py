"""A conversation as its chat template writes it: which characters carry loss, and where it is tokenised apart.

Where the assistant's turns stand is found in one of two ways, neither of them a guess:

- A template with ``{% generation %}`` markers says itself what the assistant wrote. A second rendering, with a word in
  place of each message that cannot occur in the text, shows whether the markers hold what the assistant says and nobody
  else.
- For any other template the pieces between such words are what the template adds. Putting the real messages back
  between the pieces must give the real rendering to the letter; then every place is known.

A turn ends with its end-of-turn token: a model that is not trained on it does not learn to stop. It begins where its
generation prompt ends: what the prompt supplies carries no loss, and what it does not supply has to be learnt. The text
is tokenised apart at these places, as it is at inference.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from studio.data.completeness import check_complete
from studio.data.flags import Flag
from studio.data.refusals import TYPED, ReasoningLost, RowRefused, inexact, message_lost
from studio.data.spans_by_marks import (
    make_marks,
    marked_spans,
    opener,
    put_in,
    spans_by_marks,
    through_eos,
    turns_by_markers,
)
from studio.data.spans_by_turn import spans_by_turn
from studio.data.special_text import Hidden, Span, Specials, hide_typed
from studio.data.turns import carries_loss
from studio.data.writer import Writer, with_text_arguments
from studio.errors import StudioError


@dataclass(frozen=True)
class Rendered:
    """A conversation as the chat template writes it.

    Attributes:
        text: the whole of it.
        spans: the characters that carry loss, in order.
        cuts: where it is tokenised apart: the ends of the generation prompts that it begins with.
        typed: where special tokens stand that somebody wrote into a message.
        flags: what there is to know about it.
        bos: whether it begins with a token that stands apart from the text behind it (plain text).
    """

    text: str
    spans: list[Span]
    cuts: list[int] = field(default_factory=list)
    typed: list[Span] = field(default_factory=list)
    flags: list[Flag] = field(default_factory=list)
    bos: int = 0


@dataclass
class _Found:
    """The text and, for each assistant message, its spans."""

    text: str
    turns: dict[int, list[Span]]
    flags: list[Flag]


def render(
    tokenizer: Any,
    messages: list[dict],
    tools: list[dict] | None = None,
    *,
    train_on: str = "assistant",
    specials: Specials | None = None,
) -> Rendered:
    """Render a conversation with the tokenizer's chat template and find what carries loss.

    Args:
        train_on: ``assistant``, ``last`` or ``all``.
        specials: ``Specials.of(tokenizer)``, where many conversations are rendered one after the other.

    Raises:
        StudioError: the tokenizer has no template, or the template refuses the conversation, leaves a part of it out,
            or cannot be masked exactly.
    """
    specials = specials or Specials.of(tokenizer)
    hidden = hide_typed(messages, tools, specials)
    writer = Writer(tokenizer, hidden.tools)
    prompts = _Prompts(writer, hidden.messages)
    assistants = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    trained, flags = _trained(messages, assistants, train_on)
    masked = train_on != "all" or len(trained) < len(assistants)
    try:
        found = _place(writer, hidden, tokenizer, specials, prompts, masked=masked)
    except RowRefused as error:
        error.text, _, moved = hidden.reveal(error.text)
        error.place = error.place and (moved(error.place[0]), moved(error.place[1]))
        raise
    flags += [flag for flag in found.flags if flag.message is None or flag.message in trained]
    flags += [Flag("special_token_in_text", index) for index in hidden.holders]
    if hidden.tokens and not hidden.holders:
        flags.append(Flag("special_token_in_text"))
    known = prompts.lengths(found.text)
    if assistants and not writer.has_prompt and any(prompts.adds_header(i) for i in known):
        flags.append(Flag("no_generation_prompt"))
    spans: list[Span] = []
    for index in assistants:
        own = found.turns.get(index, [])
        if index not in trained:
            continue
        if index not in known:
            flags.append(Flag("context_mismatch", index))
            spans += _from(prompts.shared(index, found.text), own)
            continue
        if own:
            begun, more = _from_prompt(found.text, own, known[index], writer.marked)
            spans += begun
            flags += [Flag(code, index) for code in more]
        dropped = any(flag.code == "reasoning_dropped" and flag.message == index for flag in flags)
        if not dropped and _differs(writer, hidden.messages, index, found.text, own):
            flags.append(Flag("reply_differs", index))
    if train_on == "all":
        untrained = [span for i in assistants if i not in trained for span in found.turns.get(i, [])]
        spans = _without(len(found.text), untrained)
    text, typed, moved = hidden.reveal(found.text)
    spans = [(moved(start), moved(end)) for start, end in spans]
    return Rendered(text, spans, sorted({moved(cut) for cut in known.values()}), typed, flags)


class _Prompts:
    """The generation prompts of a conversation's replies, each written once."""

    def __init__(self, writer: Writer, messages: list[dict]):
        self._writer, self._messages = writer, messages
        self._texts: dict[int, str | None] = {}

    def lengths(self, text: str) -> dict[int, int]:
        """Return for each reply whose prompt the text begins with the length of that prompt."""
        found = {}
        for index, message in enumerate(self._messages):
            if message["role"] == "assistant":
                prompt = self._text(index)
                if prompt is not None and text.startswith(prompt):
                    found[index] = len(prompt)
        return found

    def shared(self, index: int, text: str) -> int:
        """Return how many characters a text and a reply's prompt begin with alike."""
        prompt = self._text(index) or ""
        return next((i for i, (a, b) in enumerate(zip(text, prompt, strict=False)) if a != b), len(prompt))

    def _text(self, index: int) -> str | None:
        if index not in self._texts:
            self._texts[index] = None
            with contextlib.suppress(StudioError):  # then the reply has no prompt that the text could begin with
                self._texts[index] = self._writer.prompt(self._messages[:index])
        return self._texts[index]

    def adds_header(self, index: int) -> bool:
        """Return whether the prompt of a template without a generation prompt has got a header."""
        with contextlib.suppress(StudioError):
            return self._text(index) != self._writer.text(self._writer.fitted(self._messages[:index]))
        return False


def prompt_text(tokenizer: Any, messages: list[dict], tools: list[dict] | None, specials: Specials) -> Rendered:
    """Return the text from which the reply to some messages is generated, with the same cuts as in training.

    Raises:
        StudioError: the tokenizer has no template, or the template refuses the conversation.
    """
    hidden = hide_typed(messages, tools, specials)
    writer = Writer(tokenizer, hidden.tools)
    text = writer.prompt(hidden.messages)
    if hidden.is_damaged(text):
        raise message_lost(hidden.holders[0] if hidden.holders else 0, TYPED, hidden.reveal(text)[0], len(text))
    known = _Prompts(writer, hidden.messages).lengths(text)
    revealed, typed, moved = hidden.reveal(text)
    return Rendered(revealed, [], sorted({moved(cut) for cut in known.values()}), typed)


def _trained(messages: list[dict], assistants: list[int], train_on: str) -> tuple[set[int], list[Flag]]:
    """The replies that carry loss, and what there is to say about those that do not."""
    trained, flags = set(assistants[-1:] if train_on == "last" else assistants), []
    for index in sorted(trained):
        if carries_loss(messages[index]):
            continue
        masked = messages[index].get("train") is False
        flags.append(Flag("masked_by_flag" if masked else "empty_reply", index))
        if masked or train_on != "all":
            trained.discard(index)
    return trained, flags


def _from(start: int, spans: list[Span]) -> list[Span]:
    """The part of the spans from a place on."""
    return [(max(begin, start), end) for begin, end in spans if end > start]


def _from_prompt(text: str, own: list[Span], start: int, marked: bool) -> tuple[list[Span], list[str]]:
    """A turn's spans from the end of its generation prompt on, and the codes of what could not be kept."""
    own = _from(start, own)
    if not own:
        return [], ["context_mismatch"]
    gap = text[start : own[0][0]]
    if gap.strip() and marked:
        return own, ["header_untrained"]
    return ([(start, own[0][1]), *own[1:]] if gap else own), []


def _differs(writer: Writer, messages: list[dict], index: int, text: str, own: list[Span]) -> bool:
    """Whether a reply is written differently when no other messages follow it."""
    if not own or index == len(messages) - 1 or not writer.positional:
        return False
    end = own[-1][1]
    alone = None
    for change in (lambda chat: chat, with_text_arguments):
        with contextlib.suppress(StudioError):
            alone = writer.text(change(writer.fitted(messages[: index + 1])))
            break
    return alone is None or alone[:end] != text[:end]


def _without(length: int, holes: list[Span]) -> list[Span]:
    """The characters up to ``length`` that are in no hole."""
    spans, position = [], 0
    for start, end in [*sorted(holes), (length, length)]:
        if start > position:
            spans.append((position, start))
        position = max(position, end)
    return spans


def _place(
    writer: Writer, hidden: Hidden, tokenizer: Any, specials: Specials, prompts: _Prompts, *, masked: bool
) -> _Found:
    """Write a conversation in the form that the template takes, and find the assistant's turns if they are asked for.

    Some templates want the arguments of calls as text, and some have a place for reasoning that they do not use.
    """
    messages = hidden.messages
    try:
        return _found(writer, writer.fitted(messages), hidden, tokenizer, specials, prompts, masked)
    except StudioError as error:
        thoughts = any(m.get("reasoning_content") or "</think>" in (m.get("content") or "") for m in messages)
        if any(m.get("tool_calls") for m in messages):
            chat = with_text_arguments(writer.fitted(messages))
            with contextlib.suppress(StudioError):
                return _found(writer, chat, hidden, tokenizer, specials, prompts, masked)
        if thoughts and isinstance(error, ReasoningLost):
            chat = writer.fitted(messages, thinks=False)
            with contextlib.suppress(StudioError):
                return _found(writer, chat, hidden, tokenizer, specials, prompts, masked)
        raise


def _found(
    writer: Writer,
    chat: list[dict],
    hidden: Hidden,
    tokenizer: Any,
    specials: Specials,
    prompts: _Prompts,
    masked: bool,
) -> _Found:
    assistants = [i for i, m in enumerate(chat) if m["role"] == "assistant"]
    text, held = writer.text_and_marked(chat)
    marks = make_marks(text, chat)
    swapped = put_in(chat, marks)
    other: tuple[str, list[Span]] | None = None
    with contextlib.suppress(StudioError):
        other = writer.text_and_marked(swapped)
    flags = check_complete(text, chat, hidden, marks, other[0] if other else None)
    if not masked:
        return _Found(text, {}, flags)
    if writer.marked:
        closing = [token for token in specials.every if token != opener(text, tokenizer, specials.every)]
        held = marked_spans(text, held, closing)
        if len(held) < len(assistants):
            raise inexact("it marks fewer turns with {% generation %} than the assistant has", text)
        other = other or writer.text_and_marked(swapped)
        turns = [[held[i] for i in own] for own in turns_by_markers(text, len(held), chat, marks, other, closing)]
    elif any(m.get("tool_calls") or m.get("reasoning_content") for m in chat):
        known = prompts.lengths(text)
        turns = [[span] for span in spans_by_turn(text, chat, assistants, writer, specials.every, known)]
    else:
        turns = [[span] for span in spans_by_marks(text, chat, assistants, writer, marks, other, specials.every)]
    for own in turns:
        own[-1] = through_eos(text, own[-1], specials.every, tokenizer.eos_token)
    return _Found(text, dict(zip(assistants, turns, strict=True)), flags)
