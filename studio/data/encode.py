"""The one encoder: conversations to ``input_ids`` and ``labels``, for the preview, the trainer and the evaluation."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain, islice, pairwise
from operator import itemgetter
from typing import Any

import numpy

from studio.data.bounds import time_limit
from studio.data.classes import Classes
from studio.data.spans import Rendered, Span, render, render_text, special_tokens
from studio.errors import StudioError
from studio.recipe import DataSpec

_START, _END = itemgetter(0), itemgetter(1)
_SECONDS = 30  # that a template may take for a batch of rows
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
    """

    input_ids: list[int]
    labels: list[int]
    text: str = ""
    offsets: list[Span] = field(default_factory=list)
    cut: int = 0
    dropped: str | None = None
    label: int | list[int] | None = None
    row: int | None = None


Result = Encoded | StudioError


def encode_conversation(
    tokenizer: Any,
    messages: list[dict],
    *,
    tools: list[dict] | None = None,
    max_length: int | None = None,
    train_on: str = "assistant",
) -> Encoded:
    """Render a conversation with the tokenizer's chat template, tokenise it and place the loss mask.

    Args:
        tokenizer: a fast tokenizer of transformers with a chat template.
        messages: dicts with ``role`` and ``content``, and what else ``studio.data.turns`` names, in order.
        tools: JSON schemas of functions, for templates that render them.
        max_length: keep only the first so many tokens.
        train_on: ``assistant`` takes the loss on every assistant turn, from its first character to its end-of-turn
            token; ``last`` on the last of these turns only; ``all`` on every token.

    Returns:
        The example; ``dropped`` says why if no token that carries loss is left.

    Raises:
        StudioError: the template refuses the conversation or cannot be masked exactly.
    """
    rendered = _rendered(tokenizer, messages, tools, train_on)
    return _placed(rendered, *_tokenised(tokenizer, [rendered.text])[0], max_length)


def _rendered(
    tokenizer: Any,
    messages: list[dict],
    tools: list[dict] | None,
    train_on: str,
    specials: list[str] | None = None,
) -> Rendered:
    assert train_on in ("assistant", "last", "all"), train_on
    if not messages:
        raise StudioError("The conversation has no messages.", "Remove the row.")
    if train_on == "all":
        text = render_text(tokenizer, messages, tools)
        return Rendered(text, [(0, len(text))])
    rendered = render(tokenizer, messages, tools, specials)
    return Rendered(rendered.text, rendered.spans[rendered.last :]) if train_on == "last" else rendered


def encode_text(tokenizer: Any, text: str, *, max_length: int | None = None) -> Encoded:
    """Plain text for continued pre-training: every token carries loss, and the end-of-text token closes it."""
    rendered = _whole(tokenizer, text)
    return _placed(rendered, *_tokenised(tokenizer, [rendered.text])[0], max_length)


def _whole(tokenizer: Any, text: str) -> Rendered:
    text += tokenizer.eos_token or ""
    return Rendered(text, [(0, len(text))])


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
    specials = special_tokens(tokenizer)
    with time_limit(_SECONDS):
        for index, row in enumerate(rows):
            try:
                if row.get("input_ids"):
                    made[index] = _passed_through(tokenizer, row["input_ids"], row["labels"], data.max_length)
                elif row.get("messages"):
                    waiting[index] = _rendered(tokenizer, row["messages"], row.get("tools"), data.train_on, specials)
                else:
                    waiting[index] = _whole(tokenizer, row["text"])
            except StudioError as error:
                made[index] = error
    tokenised = _tokenised(tokenizer, [rendered.text for rendered in waiting.values()])
    for (index, rendered), (ids, offsets) in zip(waiting.items(), tokenised, strict=True):
        made[index] = _placed(rendered, ids, offsets, data.max_length)
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
    tokenised = _tokenised(tokenizer, [row["text"] for row in rows])
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


def _tokenised(tokenizer: Any, texts: list[str]) -> list[tuple[list[int], list[Span]]]:
    """For each text its token ids and the characters that each stands for."""
    if not getattr(tokenizer, "is_fast", False):
        raise StudioError(
            "This model's tokenizer cannot say which characters a token stands for, so the mask cannot be exact.",
            "Choose a model with a fast tokenizer (tokenizer.json).",
            field="model.id",
        )
    if not texts:
        return []
    only = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    output = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, truncation=False, **only)
    return [
        (ids, _whole_offsets(offsets))
        for ids, offsets in zip(output["input_ids"], output["offset_mapping"], strict=True)
    ]


def _placed(rendered: Rendered, ids: list[int], offsets: list[Span], max_length: int | None) -> Encoded:
    """The example: the loss on the tokens that touch a span."""
    labels = [IGNORE] * len(ids)
    keep = len(ids) if max_length is None else min(max_length, len(ids))
    trained = left = False
    for start, end in rendered.spans:
        first = bisect_right(offsets, start, key=_END)
        last = bisect_left(offsets, end, key=_START)
        labels[first:last] = ids[first:last]
        trained |= first < last
        left |= max(first, 1) < min(last, keep)  # nothing comes before the first token, so it is never predicted
    dropped = None
    if not trained:
        dropped = "no token carries loss"
    elif not left:
        dropped = f"no token that carries loss is left within max_length {max_length}"
    return Encoded(ids[:keep], labels[:keep], rendered.text, offsets[:keep], len(ids) - keep, dropped)


def _whole_offsets(offsets: list[Span]) -> list[Span]:
    """Offsets without holes: some tokenizers leave the blanks around a word out of its token's characters.

    A blank that no token claims belongs to the token before it if that token is empty (it is the blank), otherwise to
    the token after it.
    """
    place = numpy.fromiter(chain.from_iterable(offsets), numpy.int64, 2 * len(offsets))
    starts, ends = place[::2], place[1::2]
    if (ends > starts).all() and (starts[1:] <= ends[:-1]).all() and not starts[:1].any():
        return offsets
    whole, covered = [], 0
    for index, (start, end) in enumerate(offsets):
        if end <= start:  # an empty token: it is the blank up to where the next token begins
            following = next((s for s, e in offsets[index + 1 :] if e > s), start)
            start, end = covered, max(covered, following)
        elif start > covered:
            start = covered
        whole.append((start, end))
        covered = max(covered, end)
    return whole


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
    """Each row's number and its example or refusal. ``first`` is the number of the first one, where rows have none."""
    count = first
    for some in _batches(rows):
        for row, encoded in zip(some, encode_batch(tokenizer, some, data, classes), strict=True):
            yield row.get("row", count), encoded
            count += 1


def collect(
    found: Iterable[tuple[int, Result]],
    data: DataSpec,
    progress: Callable[[int], None] = lambda done: None,
    classes: Classes | None = None,
) -> tuple[list[Encoded], dict[str, list[int]]]:
    """What :func:`encode_rows` gives, from rows that are encoded already."""
    kept: list[Encoded] = []
    dropped: dict[str, list[int]] = {}
    refused = count = 0
    first: tuple[int, StudioError] | None = None
    for number, encoded in found:
        count += 1
        if isinstance(encoded, StudioError):
            refused += 1
            first = first or (number, encoded)
            dropped.setdefault(encoded.what.rstrip("."), []).append(number)
        elif encoded.dropped:
            dropped.setdefault(encoded.dropped, []).append(number)
        else:
            kept.append(replace(encoded, row=number))
        if not count % _BATCH:
            progress(count)
    progress(count)
    if first and (data.invalid_rows != "drop" or not kept):
        more = f" ({refused:,} rows are refused.)" if refused > 1 else ""
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
