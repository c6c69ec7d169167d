"""How batches are shared among several ranks, so that together they do what one rank would do with all rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from studio.training import ranks

_ORDER = "order.pth"


class EpochOrder(Sampler):
    """The rows of each epoch in an order that a resume finds again, and that is the same on all ranks.

    The order by length is drawn from the random numbers of the training. Going on in the middle of an epoch,
    transformers draws it before it puts these back; so a checkpoint keeps those that the order was drawn from.

    Args:
        epoch: tells how many epochs are done, with fractions.
        drawn: what a checkpoint kept.
    """

    def __init__(self, sampler: Sampler, epoch: Callable[[], float | None], drawn: dict[str, Any] | None = None):
        self._sampler, self._epoch, self.drawn = sampler, epoch, drawn

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[int]:
        epoch = int(self._epoch() or 0)
        if self.drawn is None or self.drawn["epoch"] != epoch:
            self.drawn = {"epoch": epoch, "random": torch.get_rng_state()}
            order = list(self._sampler)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(self.drawn["random"])
                order = list(self._sampler)
        return iter(ranks.broadcast(order))


class SharingTrainer:
    """Stands before one of transformers' trainers. With one rank everything is as there."""

    _order: EpochOrder | None = None
    _kept_order: dict[str, Any] | None = None  # of the checkpoint that the run goes on from

    def train(self, resume_from_checkpoint: str | None = None, **options: Any) -> Any:
        kept = Path(resume_from_checkpoint) / _ORDER if resume_from_checkpoint else None
        self._kept_order = torch.load(kept, weights_only=True) if kept and kept.exists() else None
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **options)

    def save_order(self, folder: Path) -> None:
        """Write what this epoch's order was drawn from into a checkpoint."""
        if self._order and self._order.drawn:
            torch.save(self._order.drawn, folder / _ORDER)

    def _get_train_sampler(self, *arguments: Any, **options: Any) -> Any:
        """Rows of similar length are grouped over the batches of all ranks, as for one rank with all of them."""
        sampler = super()._get_train_sampler(*arguments, **options)
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler  # accelerate draws a plain order from the seed and the epoch
        sampler.batch_size *= ranks.count()
        self._order = EpochOrder(sampler, lambda: self.state.epoch, self._kept_order)
        return self._order

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
        rows = self.args.per_device_train_batch_size
        last = len(self.train_dataset) % (rows * ranks.count())  # accelerate's own number is wrong after a resume
        if not self.accelerator.gradient_state.end_of_dataloader or not last or batch["labels"].dim() < 2:
            return batch
        real = min(rows, max(0, last - ranks.rank() * rows))
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
