"""Failures in plain words: what happened and what to do, from the type of the exception."""

from __future__ import annotations

import errno
import traceback

from studio.errors import StudioError
from studio.recipe import Recipe


def explain(error: BaseException, recipe: Recipe) -> tuple[StudioError, str]:
    """A ``StudioError`` for any exception of the worker, and the traceback as text."""
    details = "".join(traceback.format_exception(error))
    if isinstance(error, StudioError):
        return error, details
    if _out_of_memory(error):
        batch = recipe.train.per_device_train_batch_size
        tips = []
        if batch > 1:
            accumulation = recipe.train.gradient_accumulation_steps * 2
            tips.append(
                f"halve train.per_device_train_batch_size to {batch // 2} and set "
                f"train.gradient_accumulation_steps to {accumulation} (the same result)"
            )
        if not recipe.train.gradient_checkpointing:
            tips.append("turn train.gradient_checkpointing on")
        tips.append(f"lower data.max_length from {recipe.data.max_length}")
        fix = "; or ".join(tips)
        return StudioError("The device ran out of memory.", fix[0].upper() + fix[1:] + "."), details
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return StudioError("The disk is full.", "Free some space, then resume the run."), details
    if isinstance(error, KeyboardInterrupt):
        return StudioError("The worker was interrupted.", "Resume the run to go on from its last checkpoint."), details
    reason = (str(error).strip().splitlines() or [""])[0][:300]
    name = type(error).__name__
    return (
        StudioError(
            f"Training failed with {name}: {reason}" if reason else f"Training failed with {name}.",
            "The details and the log tell more; if it is not your data or settings, please report it.",
        ),
        details,
    )


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch's host allocator
