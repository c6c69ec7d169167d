"""Negative log-likelihood of encoded rows under a model. Loads torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from studio.data import Encoded
from studio.errors import StudioError
from studio.inference import Handle
from studio.models.head import IGNORE, LabelledLogits


@dataclass(frozen=True)
class RowLoss:
    """What a model makes of a row's labels.

    Attributes:
        total: negative log-likelihood, summed over the labelled tokens (nats).
        tokens: how many labelled tokens there are (the row's first token has nothing before it and never counts).
        likeliest: for each of them the token that the model would have taken greedily.
    """

    total: float
    tokens: int
    likeliest: list[int] = field(default_factory=list)


def row_losses(
    handle: Handle,
    rows: Sequence[Encoded],
    progress: Callable[[int], None] = lambda done: None,
    *,
    max_tokens: int = 2048,
    max_logits: int = 1 << 27,
) -> list[RowLoss]:
    """The loss of each row, in their order, taken where the row's labels are not -100 as in training.

    Rows of similar length go through the model together, padded on the right, where no row sees the padding. Logits are
    computed at labelled positions only, and their log-softmax and its sum in float32.

    Args:
        progress: called with the number of rows done.
        max_tokens: tokens at a time, padding included; at least one row.
        max_logits: numbers in the largest logits tensor, 4 bytes each; at least one row.

    Raises:
        StudioError: memory ran out.
    """
    vocabulary = handle.weights.model.get_input_embeddings().weight.shape[0]
    losses = [RowLoss(0.0, 0)] * len(rows)
    done = 0
    logits_of = LabelledLogits(handle.weights.model)
    for batch in _batches(rows, max_tokens, max_logits // vocabulary):
        try:
            with handle.weights.use_adapter(handle.adapter):
                found = handle.weights.compute(lambda batch=batch: _losses(handle, logits_of, [rows[i] for i in batch]))
        except torch.OutOfMemoryError as error:
            raise StudioError(
                f"{handle.name} ran out of memory on {handle.weights.device} while it was scored.",
                "Lower data.max_length, or close what else uses the device.",
            ) from error
        for i, loss in zip(batch, found, strict=True):
            losses[i] = loss
        done += len(batch)
        progress(done)
    return losses


def _batches(rows: Sequence[Encoded], max_tokens: int, max_labelled: int) -> Iterator[list[int]]:
    """Numbers of rows, longest first, so that too little memory shows at once."""
    batch: list[int] = []
    labelled = 0
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i].input_ids), reverse=True):
        here = sum(label != IGNORE for label in rows[i].labels)
        width = len(rows[batch[0]].input_ids) if batch else 0
        if batch and ((len(batch) + 1) * width > max_tokens or labelled + here > max_labelled):
            yield batch
            batch, labelled = [], 0
        batch.append(i)
        labelled += here
    if batch:
        yield batch


def _losses(handle: Handle, logits_of: LabelledLogits, rows: list[Encoded]) -> list[RowLoss]:
    width = len(rows[0].input_ids)
    pad = handle.tokenizer.pad_token_id or 0
    ids = torch.tensor([r.input_ids + [pad] * (width - len(r.input_ids)) for r in rows])
    attention = torch.tensor([[1] * len(r.input_ids) + [0] * (width - len(r.input_ids)) for r in rows])
    labels = torch.tensor([r.labels + [IGNORE] * (width - len(r.labels)) for r in rows])
    logits, targets, mask = logits_of(*(t.to(handle.weights.device) for t in (ids, attention, labels)))
    each = functional.cross_entropy(logits.float(), targets, reduction="none")
    row_of, counts = mask.nonzero()[:, 0], mask.sum(1).tolist()
    totals = torch.zeros(len(rows), device=each.device).index_add_(0, row_of, each).tolist()
    likeliest = [part.tolist() for part in logits.argmax(-1).split(counts)]
    return [RowLoss(*parts) for parts in zip(totals, counts, likeliest, strict=True)]


def foretold_answer(encoded: Encoded, prompt: list[int], loss: RowLoss, stop_ids: frozenset[int]) -> list[int] | None:
    """The tokens of the row's last answer if they are what the model would write greedily, else None.

    If at each token of the answer, up to its end of turn, the likeliest token given what comes before is that very
    token, then greedy generation writes exactly this answer, and need not be run (the check of speculative decoding,
    https://arxiv.org/abs/2211.17192).

    Args:
        prompt: what generation would start from; an answer that does not directly follow it is not foretold.
        loss: of this row.
    """
    ids, labels = encoded.input_ids, encoded.labels
    if ids[: len(prompt)] != prompt:
        return None
    taken = dict(zip([i for i in range(1, len(ids)) if labels[i] != IGNORE], loss.likeliest, strict=True))
    for i in range(len(prompt), len(ids)):
        if taken.get(i) != ids[i]:
            return None
        if ids[i] in stop_ids:
            return ids[len(prompt) : i]
    return None
