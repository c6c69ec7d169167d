"""The one encoder: conversations to ``input_ids`` and ``labels``, for the preview, the trainer and the evaluation."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice, pairwise
from operator import itemgetter
from typing import Any

from studio.data.classes import Classes
from studio.data.flags import Flag
from studio.data.pieces import tokenise
from studio.data.spans import Rendered, prompt_text, render
from studio.data.special_text import Span, Specials
from studio.data.time_limit import time_limit
from studio.data.turns import carries_loss
from studio.errors import StudioError
from studio.recipe import DataSpec

_START, _END = itemgetter(0), itemgetter(1)
_SECONDS = 30  # of processor time that a template may take for a batch of rows of a few messages
_LONG = 20_000  # squared messages of a row for which it gets another second: each reply's prompt is rendered
_BATCH = 64  # rows that are tokenised at once
IGNORE = -100  # the label that carries no loss, as in torch.nn.functional.cross_entropy


@dataclass(frozen=True)
class Encoded:
    """One training example.

    Attributes:
        input_ids: token ids, at most ``max_length`` of them.
        labels: as long as ``input_ids``; the token's id where loss is taken, -100 elsewhere.
        text: what was tokenised, whole (also what ``max_length`` cuts off).
        offsets: for each token the characters of ``text`` that it stands for.
        cut: how many tokens ``max_length`` took off the end.
        dropped: why the example is left out of training, or None.
        label: where texts are put into classes: the number of its class, or of each of its classes; then no token
            carries loss. None for language modelling.
        row: the number of its row in the source, where that is known.
        turn: with one example per reply, the index of the message that is the reply.
        flags: what there is to know about it, see ``studio.data.flags``.
    """

    input_ids: list[int]
    labels: list[int]
    text: str = ""
    offsets: list[Span] = field(default_factory=list)
    cut: int = 0
    dropped: str | None = None
    label: int | list[int] | None = None
    row: int | None = None
    turn: int | None = None
    flags: tuple[Flag, ...] = ()


Result = Encoded | StudioError


def encode_conversation(
    tokenizer: Any,
    messages: list[dict],
    *,
    tools: list[dict] | None = None,
    max_length: int | None = None,
    train_on: str = "assistant",
    special_tokens_in_text: str = "special",
) -> Encoded:
    """Render a conversation with the tokenizer's chat template, tokenise it and place the loss mask.

    Args:
        tokenizer: a fast tokenizer of transformers with a chat template.
        messages: dicts with ``role`` and ``content``, and what else ``studio.data.turns`` names, in order.
        tools: JSON schemas of functions, for templates that render them.
        max_length: keep only the first so many tokens.
        train_on: ``assistant`` takes the loss on every assistant turn, from the end of its generation prompt to its
            end-of-turn token; ``last`` on the last of these turns only; ``all`` on every token.
        special_tokens_in_text: as ``data.special_tokens_in_text``.

    Returns:
        The example; ``dropped`` says why if no token that carries loss is left.

    Raises:
        StudioError: the template refuses the conversation, leaves a part of it out, or cannot be masked exactly.
    """
    specials = Specials.of(tokenizer)
    rendered = _rendered(tokenizer, messages, tools, train_on, specials)
    as_text = special_tokens_in_text == "text"
    return _placed(rendered, *tokenise(tokenizer, [rendered], specials, typed_as_text=as_text)[0], max_length)


def encode_prompt(
    tokenizer: Any,
    messages: list[dict],
    *,
    tools: list[dict] | None = None,
    special_tokens_in_text: str | None = None,
) -> list[int]:
    """Return the token ids from which the reply to some messages is generated: those that its example begins with.

    Args:
        special_tokens_in_text: as ``data.special_tokens_in_text``; None takes what the tokenizer was prepared for.

    Raises:
        StudioError: the tokenizer has no template, or the template refuses the conversation.
    """
    specials = Specials.of(tokenizer)
    rendered = prompt_text(tokenizer, messages, tools, specials)
    chosen = special_tokens_in_text or tokenizer.init_kwargs.get("special_tokens_in_text", "special")
    return tokenise(tokenizer, [rendered], specials, typed_as_text=chosen == "text")[0][0]


def _rendered(
    tokenizer: Any, messages: list[dict], tools: list[dict] | None, train_on: str, specials: Specials
) -> Rendered:
    assert train_on in ("assistant", "last", "all"), train_on
    if not messages:
        raise StudioError("The conversation has no messages.", "Remove the row.", code="no_messages")
    return render(tokenizer, messages, tools, train_on=train_on, specials=specials)


def encode_text(
    tokenizer: Any, text: str, *, max_length: int | None = None, special_tokens_in_text: str = "special"
) -> Encoded:
    """Encode plain text for continued pre-training: every token carries loss.

    It begins with the tokenizer's beginning-of-sequence token, if the tokenizer adds one to a text, and ends with the
    end-of-text token.
    """
    specials = Specials.of(tokenizer)
    rendered = _whole(tokenizer, text, specials, _bos(tokenizer))
    as_text = special_tokens_in_text == "text"
    return _placed(rendered, *tokenise(tokenizer, [rendered], specials, typed_as_text=as_text)[0], max_length)


def _whole(tokenizer: Any, text: str, specials: Specials, bos: str) -> Rendered:
    typed = [(start + len(bos), end + len(bos)) for start, end in specials.typed(text)]
    flags = [Flag("special_token_in_text", detail=text[a - len(bos) : b - len(bos)]) for a, b in typed[:1]]
    text = bos + text + (tokenizer.eos_token or "")
    return Rendered(text, [(0, len(text))], typed=typed, flags=flags, bos=len(bos))


def _bos(tokenizer: Any) -> str:
    """The token that the tokenizer begins every text with, or nothing."""
    if tokenizer.bos_token_id is None:
        return ""
    ids = tokenizer("a", return_attention_mask=False, return_token_type_ids=False)["input_ids"]
    return tokenizer.bos_token if ids[:1] == [tokenizer.bos_token_id] else ""


def one_per_reply(row: dict[str, Any], data: DataSpec) -> list[dict[str, Any]]:
    """Return a row as ``encode_batch`` takes it: itself, or with ``data.split_turns`` one row for each of its replies.

    Each of them ends with its reply, and ``turn`` is the index of that message: only there the loss is taken. A reply
    that carries no loss gets none; a row in which none does stays whole.
    """
    messages = row.get("messages")
    if not data.split_turns or not messages:
        return [row]
    replies = [index for index, message in enumerate(messages) if carries_loss(message)]
    if data.train_on == "last":
        last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=-1)
        replies = [index for index in replies if index == last]
    return [{**row, "messages": messages[: index + 1], "turn": index} for index in replies] or [row]


def encode_row(tokenizer: Any, row: dict[str, Any], data: DataSpec, classes: Classes | None = None) -> Encoded:
    """A row of ``load_conversations`` as an example, by the settings of a recipe.

    Args:
        classes: the classes that are learnt, for rows with a ``label``.

    Raises:
        StudioError: the template refuses the conversation or cannot be masked exactly.
    """
    encoded = encode_batch(tokenizer, [row], data, classes)[0]
    if isinstance(encoded, StudioError):
        raise encoded
    return encoded


def encode_batch(
    tokenizer: Any, rows: Sequence[dict[str, Any]], data: DataSpec, classes: Classes | None = None
) -> list[Encoded | StudioError]:
    """Rows as examples, each as ``encode_row`` makes it, or its refusal; quicker than one after another.

    Raises:
        TooSlow: the template does not end with these rows.
    """
    if classes is not None:
        return _labelled(tokenizer, rows, data.max_length, classes)
    made: list[Encoded | StudioError | None] = [None] * len(rows)
    waiting: dict[int, Rendered] = {}
    specials = Specials.of(tokenizer)
    bos = _bos(tokenizer) if any(row.get("text") is not None for row in rows) else ""
    seconds = _SECONDS + sum(len(row.get("messages") or ()) ** 2 for row in rows) / _LONG
    with time_limit(seconds):
        for index, row in enumerate(rows):
            try:
                if row.get("input_ids"):
                    made[index] = _passed_through(tokenizer, row["input_ids"], row["labels"], data.max_length)
                elif row.get("messages"):
                    train_on = "last" if row.get("turn") is not None else data.train_on
                    waiting[index] = _rendered(tokenizer, row["messages"], row.get("tools"), train_on, specials)
                else:
                    waiting[index] = _whole(tokenizer, row["text"], specials, bos)
            except StudioError as error:
                made[index] = error
    as_text = data.special_tokens_in_text == "text"
    tokenised = tokenise(tokenizer, list(waiting.values()), specials, typed_as_text=as_text)
    for (index, rendered), (ids, offsets) in zip(waiting.items(), tokenised, strict=True):
        made[index] = _placed(rendered, ids, offsets, data.max_length, rows[index].get("turn"))
    return made


def _passed_through(tokenizer: Any, ids: list[int], labels: list[int], max_length: int) -> Encoded:
    """Tokens that a dataset brings itself; the text is there to be looked at."""
    size = len(tokenizer)
    if beyond := next((i for i in ids if i >= size), None):
        raise StudioError(
            f"It holds the token id {beyond}, and the tokenizer has {size:,} tokens.",
            "These tokens were made with another tokenizer; choose its model.",
            field="data.source",
        )
    pieces = [tokenizer.decode([i]) for i in ids]
    ends = list(accumulate(map(len, pieces)))
    offsets = list(zip([0, *ends], ends, strict=False))
    kept = max_length if any(label != IGNORE for label in labels[1:max_length]) else 0
    dropped = None if kept else f"no token that carries loss is left within max_length {max_length}"
    cut = max(0, len(ids) - max_length)
    return Encoded(ids[:max_length], labels[:max_length], "".join(pieces), offsets[:max_length], cut, dropped)


def _labelled(
    tokenizer: Any, rows: Sequence[dict[str, Any]], max_length: int, classes: Classes
) -> list[Encoded | StudioError]:
    """Texts with their classes: the special tokens that the tokenizer adds, for a decoder also its end token.

    ``max_length`` takes tokens out of the text only: what the tokenizer puts around it stays.
    """
    made: list[Encoded | StudioError] = []
    specials = Specials.of(tokenizer) if rows else None
    tokenised = tokenise(tokenizer, [Rendered(row["text"], []) for row in rows], specials)
    before, after = _around(tokenizer) if rows else ([], [])
    first, last = tokenizer.convert_ids_to_tokens(before), tokenizer.convert_ids_to_tokens(after)
    shift = sum(map(len, first))
    for row, (ids, offsets) in zip(rows, tokenised, strict=True):
        kept = ids[: max_length - len(before) - len(after)]
        end = offsets[len(kept) - 1][1] if 0 < len(kept) < len(ids) else len(row["text"])
        text = "".join([*first, row["text"][:end], *last, row["text"][end:]])
        inner = [(start + shift, stop + shift) for start, stop in offsets[: len(kept)]]
        places = [*_side_by_side(first, 0), *inner, *_side_by_side(last, shift + end)]
        label = classes.numbers(row["label"])
        dropped = classes.unknown(row["label"]) if label is None else None if kept else "no token of the text is left"
        whole = [*before, *kept, *after]
        made.append(Encoded(whole, [IGNORE] * len(whole), text, places, len(ids) - len(kept), dropped, label))
    return made


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text: those that the tokenizer adds, and an end token if it adds none."""
    made = tokenizer("a", return_special_tokens_mask=True)
    ids, mask = made["input_ids"], made["special_tokens_mask"]
    first, last = mask.index(0), len(mask) - mask[::-1].index(0)
    after = ids[last:]
    if not after and tokenizer.eos_token_id is not None:
        after = [tokenizer.eos_token_id]
    return ids[:first], after


def _side_by_side(tokens: list[str], start: int) -> list[Span]:
    """Where tokens stand that are written one after another from a place on."""
    ends = list(accumulate(map(len, tokens), initial=start))
    return list(pairwise(ends))


def _placed(
    rendered: Rendered, ids: list[int], offsets: list[Span], max_length: int | None, turn: int | None = None
) -> Encoded:
    """The example: the loss on the tokens that touch a span."""
    labels = [IGNORE] * len(ids)
    keep = len(ids) if max_length is None else min(max_length, len(ids))
    trained = left = cut = False
    for start, end in rendered.spans:
        first = bisect_right(offsets, start, key=_END)
        last = bisect_left(offsets, end, key=_START)
        labels[first:last] = ids[first:last]
        trained |= first < last
        left |= max(first, 1) < min(last, keep)  # nothing comes before the first token, so it is never predicted
        cut |= first < keep < last
    dropped = None
    if not trained:
        dropped = "no token carries loss"
    elif not left:
        dropped = f"no token that carries loss is left within max_length {max_length}"
    flags = [*rendered.flags, *([Flag("end_token_cut")] if cut else [])]
    return Encoded(
        ids[:keep],
        labels[:keep],
        rendered.text,
        offsets[:keep],
        len(ids) - keep,
        dropped,
        turn=turn,
        flags=tuple(flags),
    )


def encode_rows(
    tokenizer: Any,
    rows: Iterable[dict[str, Any]],
    data: DataSpec,
    progress: Callable[[int], None] = lambda done: None,
    classes: Classes | None = None,
) -> tuple[list[Encoded], dict[str, list[int]]]:
    """Encode many rows: the examples to train on, and for each reason to drop one the numbers of its rows.

    Raises:
        StudioError: the template refuses a row that is not to be dropped, or no row is left.
    """
    return collect(encoded_one_by_one(tokenizer, rows, data, classes), data, progress, classes)


def encoded_one_by_one(
    tokenizer: Any, rows: Iterable[dict[str, Any]], data: DataSpec, classes: Classes | None = None, first: int = 1
) -> Iterator[tuple[int, Result]]:
    """Each row's number and its example or refusal; with ``data.split_turns`` a row may have several.

    Args:
        first: the number of the first row, where rows have none.
    """
    count = first
    for some in _batches(rows):
        examples = [(count + number, one) for number, row in enumerate(some) for one in one_per_reply(row, data)]
        encoded = encode_batch(tokenizer, [one for _, one in examples], data, classes)
        for (number, row), made in zip(examples, encoded, strict=True):
            yield row.get("row", number), made
        count += len(some)


def collect(
    found: Iterable[tuple[int, Result]],
    data: DataSpec,
    progress: Callable[[int], None] = lambda done: None,
    classes: Classes | None = None,
) -> tuple[list[Encoded], dict[str, list[int]]]:
    """What :func:`encode_rows` gives, from rows that are encoded already.

    ``progress`` and the numbers of dropped rows count rows, also where a row has several examples.
    """
    kept: list[Encoded] = []
    dropped: dict[str, list[int]] = {}
    seen: set[int] = set()
    refused: set[int] = set()
    first: tuple[int, StudioError] | None = None
    for number, encoded in found:
        if number not in seen and seen and not len(seen) % _BATCH:
            progress(len(seen))
        seen.add(number)
        why = encoded.what.rstrip(".") if isinstance(encoded, StudioError) else encoded.dropped
        if isinstance(encoded, StudioError):
            refused.add(number)
            first = first or (number, encoded)
        elif not why:
            kept.append(replace(encoded, row=number))
        if why and (rows := dropped.setdefault(why, []))[-1:] != [number]:
            rows.append(number)
    progress(len(seen))
    if first and (data.invalid_rows != "drop" or not kept):
        more = f" ({len(refused):,} rows are refused.)" if len(refused) > 1 else ""
        raise StudioError(
            f"Row {first[0]:,}: {first[1].what}{more}",
            f"{first[1].fix} Or set data.invalid_rows to drop to leave such rows out.",
            field=first[1].field or "data.invalid_rows",
        )
    if not kept:
        reasons = "; ".join(f"{len(rows)} x {why}" for why, rows in dropped.items()) or "there are no rows"
        raise StudioError(
            f"No row is left to train on: {reasons}.",
            "Raise data.max_length, or check data.train_on and the rows in the preview."
            if classes is None
            else "Hold out other rows, or look at them in the preview.",
            field="data.max_length" if classes is None else "data.holdout",
        )
    return kept, dropped


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    every = iter(rows)
    return iter(lambda: list(islice(every, _BATCH)), [])
