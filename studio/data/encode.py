"""The one encoder: conversations to ``input_ids`` and ``labels``, for the preview, the trainer and the evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from studio.data.spans import Span, render, render_text
from studio.errors import StudioError
from studio.recipe import DataSpec

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
    """

    input_ids: list[int]
    labels: list[int]
    text: str = ""
    offsets: list[Span] = field(default_factory=list)
    cut: int = 0
    dropped: str | None = None


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
        messages: dicts with ``role`` and ``content``, in order.
        tools: JSON schemas of functions, for templates that render them.
        max_length: keep only the first so many tokens.
        train_on: ``assistant`` takes the loss on every assistant turn, from its first character to its end-of-turn
            token; ``last`` on the last of these turns only; ``all`` on every token.

    Returns:
        The example; ``dropped`` says why if no token that carries loss is left.

    Raises:
        StudioError: the template refuses the conversation or cannot be masked exactly.
    """
    assert train_on in ("assistant", "last", "all"), train_on
    if not messages:
        raise StudioError("The conversation has no messages.", "Remove the row.")
    if train_on == "all":
        text = render_text(tokenizer, messages, tools)
        return _tokenise(tokenizer, text, [(0, len(text))], max_length)
    rendered = render(tokenizer, messages, tools)
    spans = rendered.spans[-1:] if train_on == "last" else rendered.spans
    return _tokenise(tokenizer, rendered.text, spans, max_length)


def encode_text(tokenizer: Any, text: str, *, max_length: int | None = None) -> Encoded:
    """Plain text for continued pre-training: every token carries loss, and the end-of-text token closes it."""
    whole = text + (tokenizer.eos_token or "")
    return _tokenise(tokenizer, whole, [(0, len(whole))], max_length)


def encode_row(tokenizer: Any, row: dict[str, Any], data: DataSpec) -> Encoded:
    """A row of ``load_conversations`` as an example, by the settings of a recipe."""
    if row.get("messages") is None:
        return encode_text(tokenizer, row["text"], max_length=data.max_length)
    return encode_conversation(
        tokenizer, row["messages"], tools=row.get("tools"), max_length=data.max_length, train_on=data.train_on
    )


def _tokenise(tokenizer: Any, text: str, spans: list[Span], max_length: int | None) -> Encoded:
    if not getattr(tokenizer, "is_fast", False):
        raise StudioError(
            "This model's tokenizer cannot say which characters a token stands for, so the mask cannot be exact.",
            "Choose a model with a fast tokenizer (tokenizer.json).",
            field="model.id",
        )
    output = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False)
    ids, offsets = output["input_ids"], _whole_offsets(output["offset_mapping"])
    labels = [IGNORE] * len(ids)
    position = 0
    for start, end in spans:
        while position < len(ids) and offsets[position][1] <= start:
            position += 1
        while position < len(ids) and offsets[position][0] < end:
            labels[position] = ids[position]
            position += 1
    keep = len(ids) if max_length is None else min(max_length, len(ids))
    dropped = None
    if not any(label != IGNORE for label in labels):
        dropped = "no token carries loss"
    elif not any(label != IGNORE for label in labels[1:keep]):
        dropped = f"no token that carries loss is left within max_length {max_length}"
    return Encoded(ids[:keep], labels[:keep], text, offsets[:keep], len(ids) - keep, dropped)


def _whole_offsets(offsets: list[Span]) -> list[Span]:
    """Offsets without holes: some tokenizers leave the blanks around a word out of its token's characters.

    A blank that no token claims belongs to the token before it if that token is empty (it is the blank), otherwise to
    the token after it.
    """
    if all(e > s and s <= previous for (s, e), previous in zip(offsets, [0, *(e for _, e in offsets)], strict=False)):
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
) -> tuple[list[Encoded], dict[str, list[int]]]:
    """Encode many rows: the examples to train on, and for each reason to drop one the numbers of its rows.

    Raises:
        StudioError: no row is left, or the template cannot be masked exactly.
    """
    kept: list[Encoded] = []
    dropped: dict[str, list[int]] = {}
    for count, row in enumerate(rows, 1):
        encoded = encode_row(tokenizer, row, data)
        if encoded.dropped:
            dropped.setdefault(encoded.dropped, []).append(row.get("row", count))
        else:
            kept.append(encoded)
        progress(count)
    if not kept:
        reasons = "; ".join(f"{len(rows)} x {why}" for why, rows in dropped.items()) or "there are no rows"
        raise StudioError(
            f"No row is left to train on: {reasons}.",
            "Raise data.max_length, or check data.train_on and the rows in the preview.",
            field="data.max_length",
        )
    return kept, dropped
