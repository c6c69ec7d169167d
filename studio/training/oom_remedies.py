"""What a run that ran out of memory can do without: steps from harmless to costly, each with what it saves by the
memory estimate: a recipe and a model's config.json in, recipes out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from studio.errors import StudioError
from studio.models.memory_estimate import estimate, largest
from studio.recipe import Recipe
from studio.recipe.warnings import safer_rate
from studio.runs import Run, RunSnapshot
from studio.runs.exit_reason import killed_for_memory

LEAST_LENGTH = 32  # tokens; shorter rows teach nothing
WORTH = 0.02  # of the estimate; what saves less is not worth its price
SHRINK = 0.75  # a run that failed although the estimate said it fits has to shrink by a quarter


@dataclass(frozen=True)
class Remedy:
    """One step of the ladder.

    Attributes:
        key: ``batch``, ``checkpointing``, ``length`` or ``quantization``; ``learning_rate`` for a run that diverged.
        title: the change in words.
        changes: the recipe's paths with their new values.
        saves_bytes: what it saves by the estimate; 0 where it is not about memory.
    """

    key: str
    title: str
    changes: dict[str, Any]
    saves_bytes: int = 0

    def apply(self, recipe: Recipe) -> Recipe:
        """The recipe with the changes; what the worker has resolved belongs to the old one."""
        updates: dict[str, Any] = {"resolved": None}
        for path, value in self.changes.items():
            section, name = path.split(".")
            part = updates.get(section) or getattr(recipe, section)
            updates[section] = part.model_copy(update={name: value})
        return recipe.model_copy(update=updates)


def ladder(recipe: Recipe, config: dict, available_bytes: int | None = None, **options: Any) -> list[Remedy]:
    """The steps that apply to a recipe, in this order: a smaller batch with more accumulation (the effective batch
    stays), gradient checkpointing, shorter rows, quantised weights. Each is held against the recipe as it is.

    Args:
        config: the model's config.json.
        available_bytes: what there is; a smaller batch and shorter rows go only as far as that needs.
        options: those of :func:`studio.models.memory_estimate.estimate`; ``length`` is the longest row in tokens.

    Raises:
        StudioError: as :func:`studio.models.memory_estimate.estimate`.
    """
    size = _Size(config, available_bytes, options)
    return [step for kind in _KINDS for step in kind(recipe, size, size.room(recipe))]


def relieved(
    recipe: Recipe, config: dict, available_bytes: int | None = None, **options: Any
) -> tuple[Recipe, list[Remedy]]:
    """The recipe with as many steps of the ladder, from the first on, as it takes to fit; at least one.

    Where nothing makes it fit all steps are taken. The arguments are those of :func:`ladder`.

    Returns:
        The new recipe, and the steps that were taken.

    Raises:
        StudioError: no step applies, or as :func:`studio.models.memory_estimate.estimate`.
    """
    size = _Size(config, available_bytes, dict(options))
    room, taken = size.room(recipe), []
    for step in ladder(recipe, config, available_bytes, **options):
        recipe = step.apply(recipe)
        taken.append(step)
        if size.of(recipe) <= room:
            break
    if not taken:
        raise StudioError(
            "Nothing of this recipe can be made smaller.", "Take a smaller model, or a machine with more memory."
        )
    return recipe, taken


class _Size:
    """The estimate of one model for changing recipes, in bytes."""

    def __init__(self, config: dict, available_bytes: int | None, options: dict[str, Any]):
        self._config, self._available = config, available_bytes
        self._length, self._options = options.pop("length", None), options

    def longest(self, recipe: Recipe) -> int:
        return min(self._length or recipe.data.max_length, recipe.data.max_length)

    def of(self, recipe: Recipe) -> int:
        return estimate(recipe, self._config, length=self.longest(recipe), **self._options).memory_bytes["total"]

    def room(self, recipe: Recipe) -> float:
        total = self.of(recipe)
        return self._available if self._available and self._available < total else SHRINK * total

    def largest_length(self, recipe: Recipe, room: float) -> int | None:
        return largest(recipe, self._config, int(room), length=self.longest(recipe), **self._options)["length"]

    def step(self, recipe: Recipe, key: str, title: str, changes: dict[str, Any]) -> Iterator[Remedy]:
        """The step, if the changed recipe is sound and it saves enough to matter."""
        changed, before = Remedy(key, title, changes).apply(recipe), self.of(recipe)
        if not changed.problems() and (saved := before - self.of(changed)) > WORTH * before:
            yield Remedy(key, title, changes, saved)


def _batch(recipe: Recipe, size: _Size, room: float) -> Iterator[Remedy]:
    """The largest smaller batch that fits, among those that keep the effective batch; else the smallest one."""
    train = recipe.train
    batch, accumulation = train.per_device_train_batch_size, train.gradient_accumulation_steps
    last: list[Remedy] = []
    for smaller in (n for n in range(batch - 1, 0, -1) if batch % n == 0):
        times = accumulation * batch // smaller
        changes = {"train.per_device_train_batch_size": smaller, "train.gradient_accumulation_steps": times}
        if train.per_device_eval_batch_size > smaller:  # the validation is measured the same with any batch
            changes["train.per_device_eval_batch_size"] = smaller
        rows = f"{smaller} row{'s'[: smaller != 1]}"
        title = f"batches of {rows}, {times} of them a step (the effective batch stays {batch * accumulation})"
        found = list(size.step(recipe, "batch", title, changes))
        last = found or last
        if found and size.of(found[0].apply(recipe)) <= room:
            break
    yield from last


def _checkpointing(recipe: Recipe, size: _Size, room: float) -> Iterator[Remedy]:
    if not recipe.train.gradient_checkpointing:
        title = "gradient checkpointing (about a third slower, the same result)"
        yield from size.step(recipe, "checkpointing", title, {"train.gradient_checkpointing": True})


def _length(recipe: Recipe, size: _Size, room: float) -> Iterator[Remedy]:
    """Rows no shorter than half: what is cut off is not learnt."""
    longest = size.longest(recipe)
    fits = size.largest_length(recipe, room) or 0
    shorter = max(LEAST_LENGTH, longest // 2, min(fits, longest - 1) // 8 * 8)
    if shorter < longest:
        title = f"rows of at most {shorter:,} tokens (longer ones are cut; the longest has {longest:,})"
        yield from size.step(recipe, "length", title, {"data.max_length": shorter})


def _quantization(recipe: Recipe, size: _Size, room: float) -> Iterator[Remedy]:
    if recipe.model.quantization in ("none", "int8"):
        title = "the frozen base in 4 bits (NF4), with a little loss"
        yield from size.step(recipe, "quantization", title, {"model.quantization": "nf4"})


_KINDS = (_batch, _checkpointing, _length, _quantization)


def slower(recipe: Recipe) -> Remedy:
    """For a run that diverged: a learning rate that cures it (:func:`studio.recipe.warnings.safer_rate`)."""
    rate = safer_rate(recipe.method.kind, recipe.train.learning_rate)
    title = f"a learning rate of {rate:g} instead of {recipe.train.learning_rate:g}"
    return Remedy("learning_rate", title, {"train.learning_rate": rate})


def in_words(steps: list[Remedy]) -> str:
    """The ladder as one sentence; empty if there is none."""
    said = []
    for step in steps:
        saved = f", saves about {_size(step.saves_bytes)}" if step.saves_bytes else ""
        said.append(f"{step.title}: {' '.join(f'{path}={value}' for path, value in step.changes.items())}{saved}")
    return f"Try, in this order: {'; '.join(said)}." if said else ""


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def ladder_of(recipe: Recipe, told: dict[str, Any]) -> list[Remedy]:
    """The ladder of a run that ran out of memory.

    Args:
        told: the fields of its ``failed`` or ``memory`` event (see ``studio.training.memory_monitor``).
    """
    found = _model(recipe, told)
    return ladder(recipe, **found) if found else []


def relieved_run(recipe: Recipe, told: dict[str, Any]) -> tuple[Recipe, list[Remedy]]:
    """:func:`relieved` for a run that ran out of memory, with what its event tells.

    Raises:
        StudioError: no step applies, or the model is not on this disk any more or not known to the estimate.
    """
    found = _model(recipe, told)
    if not found:
        raise StudioError(
            "How much memory this model takes is not known here.",
            "Lower train.per_device_train_batch_size, or turn train.gradient_checkpointing on.",
        )
    return relieved(recipe, **found)


def ran_out(run: Run, status: str, view: RunSnapshot) -> dict[str, Any] | None:
    """What the events tell of a run that ran out of memory, or that the system has probably ended for it; None for
    any other."""
    ended = view.ended or {}
    if status == "failed" and ended.get("reason") == "out_of_memory":
        return ended
    if status == "interrupted" and (killed := killed_for_memory(run)):
        return killed.expected
    return None


def _model(recipe: Recipe, told: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the estimate; empty for a model that is not here, or that the estimate does not know."""
    from studio.models.store import local_folder

    try:
        folder = local_folder(recipe.model)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8")) if folder else None
        if config is None:
            return {}
        options = {"device": told.get("device") or "cpu", "dtype": told.get("dtype"), "folder": folder}
        estimate(recipe, config, **options)
    except (StudioError, OSError, ValueError):
        return {}
    available, length = told.get("available_bytes"), told.get("longest_tokens")
    return {"config": config, "available_bytes": available, "length": length, **options}
