"""The order of the rows in an epoch, so that a run that is resumed in the middle of one goes on with the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import Sampler

FILE = "order.pt"


class RememberedOrder(Sampler):
    """A sampler that draws from torch's global random numbers, with their state at the beginning of the epoch.

    transformers draws the order of ``LengthGroupedSampler`` anew when a run is resumed, from numbers that are not those
    of the epoch's beginning: rows would be trained on twice in the epoch, and others not at all.

    Attributes:
        began: the state of the random numbers from which this epoch's order was drawn.
    """

    def __init__(self, sampler: Sampler):
        self._sampler = sampler
        self._again: torch.Tensor | None = None
        self.began: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[int]:
        if self._again is not None:
            torch.set_rng_state(self._again)  # the trainer sets the state of the checkpoint behind the rows it skips
            self._again = None
        self.began = torch.get_rng_state()
        return iter(list(self._sampler))

    def save(self, folder: Path) -> None:
        """Write what the order of this epoch was drawn from into a checkpoint."""
        if self.began is not None:
            torch.save(self.began, folder / FILE)

    def load(self, folder: Path) -> None:
        """Give the next epoch the order of the one in which a checkpoint was written."""
        if (folder / FILE).exists():
            self._again = torch.load(folder / FILE, weights_only=True)
