"""How the next token is drawn: penalty, temperature and cuts, and random numbers of one's own. Loads torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from studio.inference.types import Sampling


def processors(sampling: Sampling, look: Callable[[torch.Tensor], None] | None = None) -> LogitsProcessorList:
    """What happens to the scores, in order; ``look`` is shown them as they come from the model."""
    chain: list[LogitsProcessor] = [_Look(look)] if look else []
    if sampling.repetition_penalty != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.greedy:
        return LogitsProcessorList(chain)
    if sampling.temperature != 1:
        chain.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chain.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        chain.append(MinPLogitsWarper(sampling.min_p))
    return LogitsProcessorList([*chain, _Draw(sampling.seed)])


class _Look(LogitsProcessor):
    """Shows the scores of each token to come to somebody, and changes nothing."""

    def __init__(self, look: Callable[[torch.Tensor], None]):
        self._look = look

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``scores``: (batch, vocabulary)."""
        self._look(scores)
        return scores


class _Draw(LogitsProcessor):
    """Draws the next token with random numbers of its own and leaves it as the only possible one.

    ``generate(do_sample=True)`` draws from torch's one global generator, so answers that are written at the same time
    would disturb each other's random numbers. Every row has a generator with the same seed: in a batch it gets the
    numbers that it would get alone.
    """

    def __init__(self, seed: int):
        self._seed = seed
        self._rows: list[torch.Generator] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``scores``: (batch, vocabulary), log-probabilities up to a constant."""
        while len(self._rows) < len(scores):
            self._rows.append(torch.Generator(scores.device).manual_seed(self._seed))
        probabilities = torch.softmax(scores, dim=-1)
        drawn = torch.stack(
            [torch.multinomial(row, 1, generator=own) for row, own in zip(probabilities, self._rows, strict=True)]
        )
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)
