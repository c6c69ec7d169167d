"""Fewer threads while other processes need the processors, where the results stay the same to the bit.

Threads that share a processor with another process hold up those that have one of their own, since they wait for each
other after each operation. Beside one busy process on two processors, one thread trains faster than two. MKL in its
strict mode, and oneDNN's products in half precision, give the same bits with any number of threads; other operations
may not, so one batch is computed both ways before the first change.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

import torch
from transformers import TrainerCallback

from studio.thread_waiting import MKL_MODE, LoadWatch


class ThreadCount(TrainerCallback):
    """Lets the forward and backward passes of a step have as many threads as other processes leave processors.

    Everything else, the optimizer and the validation among it, keeps the number that the run began with.

    Args:
        trainer: a trainer of this project on a CPU, the only one that trains this run.
    """

    def __init__(self, trainer: Any, watch: LoadWatch):
        self._trainer, self._watch = trainer, watch
        self._threads = torch.get_num_threads()
        self._same: dict[int, bool] = {}  # by number of threads: whether the gradients are the same

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        wanted = self._watch.free_processors or self._threads
        if wanted >= self._threads:
            return
        if wanted not in self._same:
            self._same[wanted] = is_thread_count_invariant(self._trainer.model.dtype) and self._is_same(wanted)
        if self._same[wanted]:
            torch.set_num_threads(wanted)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        torch.set_num_threads(self._threads)

    def _is_same(self, wanted: int) -> bool:
        try:
            return self._gradients(self._threads) == self._gradients(wanted)
        finally:
            torch.set_num_threads(self._threads)

    def _gradients(self, threads: int) -> list[bytes]:
        """The loss of one batch, its gradients and their norm, as digests; the gradients of the model stay."""
        trainer = self._trainer
        torch.set_num_threads(threads)
        trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
        kept = [parameter.grad for parameter in trained]
        for parameter in trained:
            parameter.grad = None
        trainer.model.train()
        with torch.random.fork_rng(devices=[]), trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.some_batch()))
            loss.backward()
        found = [parameter.grad for parameter in trained if parameter.grad is not None]
        digests = [_digest(one) for one in [loss.detach(), torch.nn.utils.get_total_norm(found), *found]]
        for parameter, gradient in zip(trained, kept, strict=True):
            parameter.grad = gradient
        return digests


def is_thread_count_invariant(dtype: torch.dtype) -> bool:
    """Return whether matrix products of this number format give the same bits with any number of threads."""
    strict = os.environ.get(MKL_MODE, "").upper().endswith(",STRICT")
    return strict or dtype in (torch.bfloat16, torch.float16)


def _digest(tensor: torch.Tensor) -> bytes:
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()).digest()
