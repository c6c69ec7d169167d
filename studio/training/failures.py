"""Failures in plain words: what happened and what to do, from the type of the exception."""

from __future__ import annotations

import errno
import traceback
from typing import Any

from studio.errors import StudioError
from studio.runs import Run
from studio.training.memory_monitor import Memory
from studio.training.oom_remedies import in_words, ladder_of

_ANYHOW = (
    "Lower train.per_device_train_batch_size and raise train.gradient_accumulation_steps instead, turn "
    "train.gradient_checkpointing on, or lower data.max_length."
)


class Diverged(StudioError):
    """The loss or the gradient is not a number any more, or the loss has left for good.

    Args:
        fields: of the ``failed`` event: ``reason``, ``step``, ``rows`` and more (``studio.training.diagnostics``).
    """

    def __init__(self, what: str, fix: str, fields: dict[str, Any]):
        super().__init__(what, fix)
        self.fields = fields


def explain(error: BaseException, run: Run, memory: Memory | None = None) -> tuple[StudioError, dict[str, Any]]:
    """A ``StudioError`` for any exception of the worker, and more fields of its ``failed`` event: the traceback as
    text, and where the page can help a ``reason`` (``out_of_memory``, ``diverged``) with what belongs to it."""
    if out_of_memory(error):
        traceback.clear_frames(error.__traceback__)  # they hold the model
        fields = memory.failed() if memory else {"reason": "out_of_memory"}
        where = "The GPU" if fields.get("device") == "cuda" else "The worker"
        steps = ladder_of(run.recipe, fields)
        problem = StudioError(f"{where} ran out of memory.", in_words(steps) or _ANYHOW)
    else:
        problem, fields = _other(error)
    return problem, {"traceback": "".join(traceback.format_exception(error)), **fields}


def _other(error: BaseException) -> tuple[StudioError, dict[str, Any]]:
    if isinstance(error, Diverged):
        return error, error.fields
    if isinstance(error, StudioError):
        changes = [change.as_event() for change in getattr(error, "changes", [])]
        more = {"code": error.code, "changes": changes}
        return error, {name: value for name, value in more.items() if value}
    # safetensors has an exception of its own, with the number in its words
    if getattr(error, "errno", None) == errno.ENOSPC or f"(os error {errno.ENOSPC})" in str(error):
        return StudioError("The disk is full.", "Free some space, then resume the run."), {}
    if isinstance(error, KeyboardInterrupt):
        return StudioError("The worker was interrupted.", "Resume the run to go on from its last checkpoint."), {}
    reason = (str(error).strip().splitlines() or [""])[0][:300]
    name = type(error).__name__
    return (
        StudioError(
            f"Training failed with {name}: {reason}" if reason else f"Training failed with {name}.",
            "The details and the log tell more; if it is not your data or settings, please report it.",
        ),
        {},
    )


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or one that it was made from, says that there is no memory left."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return True
        import torch

        if isinstance(error, torch.OutOfMemoryError):
            return True
        # torch's host allocator, C++'s new, and oneDNN have no type of their own
        if isinstance(error, RuntimeError) and any(said in str(error) for said in _HOST):
            return True
        seen.add(id(error))
        error = error.__cause__
    return False


_HOST = ("can't allocate memory", "bad_alloc", "Cannot allocate memory", "could not create a memory object")
