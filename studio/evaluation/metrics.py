"""Metrics as plain functions of plain values."""

from __future__ import annotations

import math
from collections.abc import Iterable


def exact_match(output: str, reference: str) -> bool:
    """Whether an answer is the reference to the letter, blanks at both ends aside."""
    return output.strip() == reference.strip()


def perplexity(loss: float) -> float:
    """exp of the mean negative log-likelihood per token (in nats); infinite where a float cannot hold it."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def mean(values: Iterable[float]) -> float | None:
    """The mean, or None of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else None
