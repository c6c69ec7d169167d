"""Continuing a run that has ended for more epochs or steps: how far, and with which learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from studio.errors import StudioError
from studio.jobs.json_file import read_json
from studio.recipe import Recipe, Resolved
from studio.runs import Run
from studio.runs.events import last_events
from studio.runs.origin import changes_since, origin_of_recipe, read_origin, recipe_part
from studio.training.resume import ResumePlan, check_plan, diverged, plan_resume, resume_checkpoint, step_of
from studio.training.schedule import rate_at
from studio.training.step_count import planned_steps

EXTENDABLE = ("finished", "stopped", "paused", "interrupted", "failed")
Schedule = Literal["restart", "extend"]


@dataclass(frozen=True)
class Extension:
    """How a run would go on.

    Attributes:
        checkpoint: the one that it goes on from.
        recipe: the run's recipe with the new end, and with ``resolved`` saying where the schedule begins.
        step: the step that it goes on from; ``total`` the new last one.
        plan: what has changed since the checkpoint besides.
    """

    checkpoint: Path
    recipe: Recipe
    step: int
    total: int
    last_rate: float | None
    plan: ResumePlan

    def told(self) -> str:
        """From where to where, and which learning rate the schedule will use, in a few sentences."""
        train, start = self.recipe.train, self.recipe.resolved.schedule_start
        rate = lambda step: f"{rate_at(train, step, self.total, start):.3g}"  # noqa: E731
        steps = (
            f"Continues from step {self.step:,} to step {self.total:,} with the optimizer's state of the checkpoint."
        )
        before = f" The last step used {self.last_rate:.3g}." if self.last_rate is not None else ""
        if train.lr_scheduler_type == "constant":
            return f"{steps} Learning rate: {train.learning_rate:.3g} throughout (constant).{before}"
        if start == self.step:
            warm = f"rises from 0 to {train.learning_rate:.3g} over {train.warmup_steps:,} steps, then"
            first = warm if train.warmup_steps else f"begins at {train.learning_rate:.3g},"
            how = f"the schedule restarts: it {first} follows {train.lr_scheduler_type} to {rate(self.total - 1)}"
            return f"{steps} Learning rate: {how} at step {self.total:,}.{before}"
        how = f"the {train.lr_scheduler_type} schedule is stretched to {self.total:,} steps"
        jump = f"step {self.step + 1:,} uses {rate(self.step)}, the last step {rate(self.total - 1)}"
        return f"{steps} Learning rate: {how}, as if it had been planned so from the start: {jump}.{before}"


def plan_extension(
    run: Run,
    *,
    epochs: float | None = None,
    steps: int | None = None,
    schedule: Schedule | None = None,
    learning_rate: float | None = None,
    compare: bool = True,
) -> Extension:
    """How a run goes on for more epochs or steps from its last checkpoint.

    Args:
        epochs: how many more; or ``steps``.
        schedule: ``restart`` begins the schedule anew for the added steps; ``extend`` stretches it over the whole
            run, as transformers does. None restarts that of a finished run and stretches any other.
        learning_rate: the schedule's highest rate from here on; None keeps it.
        compare: whether to look for what has changed since the checkpoint, which reads files.

    Raises:
        StudioError: the run cannot be continued, with the reason.
    """
    status = run.status
    if status not in EXTENDABLE:
        raise StudioError(
            f"The run {run.id} cannot be continued: it is {status}.",
            "Wait until it has ended.",
            code="not_extendable",
        )
    if (epochs is None) == (steps is None) or (epochs or steps or 0) <= 0:
        raise StudioError("Say for how many epochs, or for how many steps.", "Give one number above 0.")
    recipe = run.recipe.check()
    if recipe.method.kind == "adalora":
        raise StudioError(
            "AdaLoRA plans its pruning for the whole run, so a run cannot be made longer.",
            f"Train a new run from its adapter: python app.py again {run.id} model.adapter={run.id}",
            code="not_extendable",
        )
    plan = plan_resume(run) if compare else ResumePlan(resume_checkpoint(run))
    if plan.checkpoint is None:
        raise _without_checkpoint(run, recipe)
    at = step_of(plan.checkpoint)
    per_epoch = _steps_per_epoch(run, recipe)
    more = steps if steps is not None else round(epochs * per_epoch)
    train = _longer(recipe, plan.checkpoint, at + max(1, more), epochs, per_epoch)
    if learning_rate in (None, recipe.train.learning_rate) and diverged(run, status):
        raise StudioError(
            f"The run {run.id} diverged with the learning rate {recipe.train.learning_rate:.3g}, and would again.",
            "Give another learning rate, for example a third of it.",
            field="train.learning_rate",
            code="rate_needed",
        )
    if learning_rate is not None:
        train["learning_rate"] = learning_rate
    schedule = schedule or default_schedule(status)
    values = recipe.model_dump(mode="json")
    resolved = recipe.resolved or Resolved()
    start = at if schedule == "restart" else 0
    values["train"] |= train
    values["resolved"] = resolved.model_copy(update={"schedule_start": start}).model_dump(mode="json")
    changed = Recipe.parse(values).check()
    return Extension(plan.checkpoint, changed, at, at + max(1, more), _last_rate(run), plan)


def default_schedule(status: str) -> Schedule:
    """What becomes of the schedule if nobody says: a finished one has come to its end, any other is stretched."""
    return "restart" if status == "finished" else "extend"


def extend_run(run: Run, extension: Extension, accept: bool = False) -> None:
    """Queue a run again with its new end. Its model, metrics and checkpoints stay until there are new ones.

    Raises:
        StudioError: the run has changed since its checkpoint and nobody has accepted that; or as ``Run.reopen``.
    """
    accepted = check_plan(extension.plan, accept)
    recipe = extension.recipe
    asked = plan_of(recipe, extension)
    resolved = recipe.resolved.model_copy(update={"accepted": accepted | asked})
    run.reopen(recipe.model_copy(update={"resolved": resolved}), continued=True)


def plan_of(recipe: Recipe, extension: Extension) -> dict[str, str]:
    """What continuing changes in the recipe, as accepted changes: the person has asked for them."""
    origin = read_origin(extension.checkpoint) or origin_of_recipe(recipe) or {}
    changes = changes_since({"recipe": origin.get("recipe")}, {"recipe": recipe_part(recipe)})
    mine = ("train.max_steps", "train.num_train_epochs", "train.learning_rate")
    return {change.field: change.token for change in changes if change.field in mine}


def _longer(recipe: Recipe, checkpoint: Path, total: int, epochs: float | None, per_epoch: int) -> dict[str, Any]:
    """The settings that end a run at step ``total``: more epochs where that comes to just these steps, or max_steps."""
    if epochs is not None and recipe.train.max_steps <= 0:
        done = recipe.train.num_train_epochs
        if math.ceil(per_epoch * done) != step_of(checkpoint):
            done = (read_json(checkpoint / "trainer_state.json") or {}).get("epoch") or 0
        wanted = round(done + epochs, 6)
        if math.ceil(per_epoch * wanted) == total:  # as transformers counts them
            return {"num_train_epochs": wanted}
    return {"max_steps": total}


def _steps_per_epoch(run: Run, recipe: Recipe) -> int:
    started = last_events(run.events_path, ("started",))
    rows = (started[-1].get("packed_rows") or started[-1].get("rows")) if started else None
    if not isinstance(rows, int) or rows < 1:
        raise StudioError(
            f"The events of {run.id} do not say how many rows it trained on.", "Give the number of steps instead."
        )
    return planned_steps(rows, recipe.train.model_copy(update={"max_steps": -1, "num_train_epochs": 1}))


def _last_rate(run: Run) -> float | None:
    steps = last_events(run.events_path, ("step",))
    rate = steps[-1].get("learning_rate") if steps else None
    return rate if isinstance(rate, float) else None


def _without_checkpoint(run: Run, recipe: Recipe) -> StudioError:
    whole = recipe.method.kind in ("full", "freeze")
    start = f"model.id={run.model_dir}" if whole else f"model.adapter={run.id}"
    fix = (
        f"Train a new run from its model, with a new optimizer: python app.py again {run.id} {start}"
        if run.has_model
        else f"Train its recipe again: python app.py again {run.id}"
    )
    return StudioError(
        f"The run {run.id} has no checkpoint to continue from; the optimizer's state is in it.",
        fix,
        code="no_checkpoint",
    )
