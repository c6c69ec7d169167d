"""How batches are shared among several ranks, so that together they do what one rank would do with all rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from studio.training import ranks


class SameOrder(Sampler):
    """The rows in rank 0's order. That by length is drawn from the random numbers of the training, and these may differ
    between ranks."""

    def __init__(self, sampler: Sampler):
        self._sampler = sampler

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[int]:
        return iter(ranks.same(list(self._sampler)))


class SharingTrainer:
    """Stands before one of transformers' trainers. With one rank everything is as there."""

    def _get_train_sampler(self, *arguments: Any, **options: Any) -> Any:
        """Rows of similar length are grouped over the batches of all ranks, as for one rank with all of them."""
        sampler = super()._get_train_sampler(*arguments, **options)
        if ranks.count() > 1 and isinstance(sampler, LengthGroupedSampler):
            sampler.batch_size *= ranks.count()
            return SameOrder(sampler)
        return sampler

    def over_ranks(self, loss: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
        """A loss divided by the items of all ranks: gradients are averaged over the ranks, and should be summed."""
        return loss if ranks.count() == 1 or num_items_in_batch is None else loss * ranks.count()

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: Any) -> tuple[list, Any]:
        """The last batch of an epoch without the rows that accelerate fills it up with."""
        if ranks.count() > 1:
            epoch_iterator = map(self._without_filling, epoch_iterator)
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def _without_filling(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Accelerate takes rows from the beginning so that every rank has a whole batch. A rank that has no other rows
        keeps one, without loss."""
        state = self.accelerator.gradient_state
        if not state.end_of_dataloader or state.remainder <= 0 or batch["labels"].dim() < 2:
            return batch
        rows = self.args.per_device_train_batch_size
        real = min(rows, max(0, state.remainder - ranks.rank() * rows))
        kept = {name: value if isinstance(value, int) else value[: max(real, 1)] for name, value in batch.items()}
        if not real:
            kept["labels"] = torch.full_like(kept["labels"], -100)
        if "labelled" in kept:
            kept["labelled"] = int((kept["labels"][:, 1:] != -100).sum())
        return kept

    def eval_batches(self) -> Iterable[dict[str, Any]]:
        """The held-out rows in batches; of several ranks each has its own, and no row comes twice."""
        if ranks.count() == 1:
            return self.get_eval_dataloader()
        rows = self._remove_unused_columns(self.eval_dataset, description="evaluation")
        batches = DataLoader(rows, batch_size=self.args.per_device_eval_batch_size, collate_fn=self.data_collator)
        return islice(batches, ranks.rank(), None, ranks.count())
