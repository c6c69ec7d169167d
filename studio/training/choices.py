"""What the worker chooses for this machine, and says in the run's ``started`` event; a recipe that names a value is
obeyed. How the layers compute is in :mod:`studio.training.acceleration.layer_choices`.

Whatever changes results follows from the processor's capabilities, the model, the rows and the recipe. A run that is
resumed or repeated on the same kind of processor keeps what it began with (:func:`kept_choices`)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from studio.data import Encoded
from studio.errors import StudioError
from studio.models.processor import asked_threads, settle_threads
from studio.recipe import Recipe, Resolved
from studio.recipe.compatibility import no_padding_free
from studio.runs import EventLog
from studio.training.packing import check_apart

_OWN_FIELDS = ("dtype", "attention", "torch.compile", "threads")
KEPT = "What the run began with."
_SLOW_BATCH_SECONDS = 0.005  # a batch that takes longer to put together keeps a GPU waiting


class Choices:
    """What was chosen, each with who chose it and why; ``told`` is a list of dictionaries ``what``, ``chosen``, ``by``
    (``recipe`` or ``studio``) and ``why``."""

    def __init__(self) -> None:
        self.told: list[dict[str, str]] = []

    def chosen(self, what: str) -> str | None:
        """What was chosen for something, if anything was."""
        return next((one["chosen"] for one in self.told if one["what"] == what), None)

    def others(self) -> dict[str, str]:
        """What was chosen, without what has a field of its own in the recipe's ``resolved`` section."""
        return {one["what"]: one["chosen"] for one in self.told if one["what"] not in _OWN_FIELDS}

    def say(self, what: str, chosen: Any, why: str, *, asked: bool = False) -> Any:
        """Note a choice in the place of an earlier one, and give it back."""
        by, why = ("recipe", "As the recipe says.") if asked else ("studio", why)
        self.told = [one for one in self.told if one["what"] != what]
        self.told.append({"what": what, "chosen": str(chosen), "by": by, "why": why})
        return chosen


def say_dtype(choices: Choices, recipe: Recipe, dtype: str, device: str) -> None:
    """Why the base weights have their number format."""
    if recipe.model.dtype != "auto":
        choices.say("dtype", dtype, "", asked=True)
    elif recipe.method.kind in ("full", "freeze"):
        choices.say("dtype", dtype, "The base's own weights are trained: updates are too small for a shorter format.")
    elif device == "cuda":
        choices.say("dtype", dtype, "The shortest format that this GPU computes in its hardware.")
    elif dtype == "bfloat16":
        choices.say("dtype", dtype, "The processor computes bfloat16 faster than float32 (AMX, or AVX512-BF16 on AMD).")
    else:
        choices.say("dtype", dtype, "The processor computes float32 faster (no AMX, and no AVX512-BF16 on AMD).")


def kept_choices(recipe: Recipe, resumed: bool, device: str, processor: str, log: EventLog) -> Resolved | None:
    """What the run, or the one that it repeats, began with, where this run is to keep it; None leaves all open.

    A resumed run keeps it in any case. Where the processor is another one, a warning says so: the results can then
    differ in their last digits.
    """
    kept = recipe.resolved
    if kept is None or kept.processor is None:  # not known of runs from before it was written down
        return kept if resumed else None
    before, now = f"{kept.device} ({kept.processor})", f"{device} ({processor})"
    if before == now:
        return kept
    fix = "The number format and the kernels stay." if resumed else "The number format and the kernels are chosen anew."
    what = f"The run began on {before}, and this is {now}: results can differ in their last digits."
    log.write("warning", what=what, fix=fix, rule="processor")
    return kept if resumed else None


def choose_threads(choices: Choices, kept: int | None, log: EventLog) -> int:
    """Set how many threads an operation has: ``OMP_NUM_THREADS``, or what the run began with, or the allowed cores."""
    threads = settle_threads(kept)
    if asked_threads():
        why = "As OMP_NUM_THREADS says."
    else:
        why = KEPT if kept else "The cores that this process may use."
    if kept and threads != kept:
        what = f"OMP_NUM_THREADS is {threads}, and the run began with {kept}: results can differ in their last digits."
        log.write("warning", what=what, fix=f"Set OMP_NUM_THREADS to {kept}, or leave it out.", rule="threads")
    return choices.say("threads", threads, why)


def choose_padding(choices: Choices, recipe: Recipe, model: Any, examples: list[Encoded]) -> bool:
    """Whether the rows of a batch stand one behind another instead of being padded.

    Raises:
        StudioError: the recipe asks for it, and the model does not keep the rows apart.
    """
    wanted, why = recipe.train.padding_free, no_padding_free(recipe)
    if wanted != "auto":
        if wanted == "on":
            check_apart(model, examples, "train.padding_free")
        choices.say("padding", "none" if wanted == "on" else "kept", "", asked=True)
        return wanted == "on"
    if not why and choices.chosen("attention") != "flash_attention_2":
        why = "This attention kernel cannot skip cross-row attention, so padding is kept."
    if not why:
        try:
            check_apart(model, examples)
        except StudioError as error:
            why = error.what
    choices.say("padding", "kept" if why else "none", why or "FlashAttention keeps the rows apart, as was tried.")
    return not why


def choose_loader(choices: Choices, recipe: Recipe, batch: Callable[[], Any], device: str) -> int:
    """How many processes put batches together beside the one that trains. ``batch`` makes one, which is timed by the
    processor time of this thread; results do not depend on it."""
    wanted, cores = recipe.train.dataloader_num_workers, len(os.sched_getaffinity(0))
    if wanted >= 0:
        return choices.say("loader processes", wanted, "", asked=True)
    if device == "cpu":
        return choices.say("loader processes", 0, "No spare cores.")
    batch()
    start = time.thread_time()
    batch()
    seconds = time.thread_time() - start
    count = min(4, cores // 2) if seconds > _SLOW_BATCH_SECONDS else 0
    return choices.say("loader processes", count, f"Putting a batch together takes {1000 * seconds:.1f} ms.")


def choose_checkpointing(
    choices: Choices, recipe: Recipe, memory: Any, again: Callable[[Recipe], int | None]
) -> Recipe:
    """The recipe with gradient checkpointing where the memory is not enough without it and is with it.

    Args:
        memory: what :meth:`studio.training.memory_monitor.Memory.expect` found.
        again: the estimate of another recipe in bytes.
    """
    train = recipe.train
    needed, room = memory["estimated_memory_bytes"], memory["available_bytes"]
    what = "gradient checkpointing"
    if train.gradient_checkpointing or not train.checkpoint_when_needed:
        choices.say(what, "on" if train.gradient_checkpointing else "off", "", asked=True)
        return recipe
    if needed is None or needed <= room:
        choices.say(what, "off", "Not needed: memory suffices." if needed else "The memory could not be estimated.")
        return recipe
    other = recipe.model_copy(update={"train": train.model_copy(update={"gradient_checkpointing": True})})
    less = again(other) if recipe.method.kind != "prefix_tuning" else None
    if less is None or less >= needed:
        choices.say(what, "off", "It would not make the memory enough.")
        return recipe
    words = (
        f"{needed / 1e9:.1f} GB would be needed without it, {less / 1e9:.1f} GB with it, and {room / 1e9:.1f} are free."
    )
    choices.say(what, "on", words)
    return other
