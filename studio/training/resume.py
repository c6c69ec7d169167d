"""Resuming a run: from where, and whether what it was made from is still the same. Loads neither torch nor the rows.

The page, the command line and the worker ask the same functions, so that none of them promises what another refuses.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from studio.data import sources
from studio.errors import StudioError
from studio.models import store
from studio.models.initial_adapter import find_adapter
from studio.recipe import Recipe
from studio.runs import Run
from studio.runs.events import last_events
from studio.runs.origin import Change, changes_since, origin_of_recipe, read_origin, recipe_part, unaccepted
from studio.training.checkpoints import last_whole
from studio.training.origin import folder_fingerprint, source_files, versions

CHANGE_FIELDS = {each.name for each in fields(Change)}
RESUMABLE = ("paused", "stopped", "failed", "interrupted")


@dataclass(frozen=True)
class ResumePlan:
    """What resuming a run would do.

    Attributes:
        checkpoint: the one that it goes on from; None begins at the first step.
        changes: in what the run differs from what that checkpoint was made from.
    """

    checkpoint: Path | None
    changes: list[Change] = field(default_factory=list)
    accepted: dict[str, str] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """The step that it goes on from."""
        return step_of(self.checkpoint)

    @property
    def refused(self) -> list[Change]:
        """What cannot change in the middle of a run."""
        return [change for change in self.changes if change.kind == "refused"]

    @property
    def asked(self) -> list[Change]:
        """What a person has to accept and has not accepted yet."""
        return unaccepted(self.changes, self.accepted)

    @property
    def notes(self) -> list[Change]:
        """What has changed and harms nothing."""
        return [change for change in self.changes if change.kind == "note"]


def step_of(checkpoint: Path | None) -> int:
    """The step of a checkpoint; 0 if there is none."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def resume_checkpoint(run: Run) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    return last_whole(run.checkpoints_dir)


def is_resumable(run: Run, status: str) -> bool:
    """Whether resuming a run is offered.

    A run that a person stopped needs a checkpoint to go on from; one that ended against its will may begin anew. A
    run that diverged would diverge again.
    """
    if status not in RESUMABLE or run.damage:
        return False
    if diverged(run, status):
        return False
    return status != "stopped" or resume_checkpoint(run) is not None


def diverged(run: Run, status: str) -> bool:
    """Whether a run failed since its loss diverged."""
    last = last_events(run.events_path) if status == "failed" else []
    return bool(last) and last[-1].get("reason") == "diverged"


def resume_text(run: Run) -> str:
    """From where Resume goes on, as one sentence."""
    checkpoint = resume_checkpoint(run)
    if checkpoint:
        return f"Resume goes on from its checkpoint of step {step_of(checkpoint):,}."
    had = last_events(run.events_path, ("checkpoint",))
    if had:
        return "Its checkpoints are gone: it can only begin again at its first step."
    return "It has no checkpoint: it can only begin again at its first step."


def plan_resume(run: Run) -> ResumePlan:
    """From where a run would be resumed, and what has changed since.

    The rows are not read here: files are compared by their content where they are small, otherwise by size and time.
    The worker compares the rows themselves.

    Raises:
        StudioError: the run is damaged, or its data, model or adapter is gone.
    """
    recipe = run.recipe.check()
    checkpoint = resume_checkpoint(run)
    accepted = recipe.resolved.accepted if recipe.resolved else {}
    if checkpoint is None:
        require_inputs(run, recipe, origin_of_recipe(recipe))
        return ResumePlan(None, _lost_checkpoint(run), accepted)
    origin = read_origin(checkpoint) or origin_of_recipe(recipe) or {}
    require_inputs(run, recipe, origin)
    changes = changes_since(origin, _now(recipe))
    return ResumePlan(checkpoint, [*changes, *_told_by_the_worker(run, changes)], accepted)


def check_plan(plan: ResumePlan, accept: bool = False) -> dict[str, str]:
    """Refuse to resume with changes that cannot be, or that nobody has accepted.

    Args:
        accept: a person has seen the changes and goes on.

    Returns:
        What is accepted, by field, for ``Resolved.accepted``.

    Raises:
        StudioError: ``resume_refused`` or ``resume_changed``, naming every change.
    """
    if plan.refused:
        raise refused(plan.refused)
    if plan.asked and not accept:
        raise changed(plan.asked)
    return {**plan.accepted, **{change.field: change.token for change in plan.asked}}


def with_accepted(recipe: Recipe, accepted: dict[str, str]) -> Recipe | None:
    """The recipe with what a person has accepted written down; None if nothing new was."""
    if recipe.resolved is None or accepted == recipe.resolved.accepted:
        return None
    return recipe.model_copy(update={"resolved": recipe.resolved.model_copy(update={"accepted": accepted})})


def from_first_step(recipe: Recipe) -> Recipe:
    """The recipe of a run that begins at its first step: so does the schedule of its learning rate."""
    if recipe.resolved is None:
        return recipe
    return recipe.model_copy(update={"resolved": recipe.resolved.model_copy(update={"schedule_start": 0})})


def check_origin(origin: dict[str, Any] | None, now: dict[str, Any], accepted: dict[str, str]) -> list[Change]:
    """What has changed since a checkpoint was made, asked by the worker, which has read the rows.

    Raises:
        StudioError: as :func:`check_plan`.
    """
    changes = changes_since(origin, now) if origin else []
    check_plan(ResumePlan(None, changes, accepted))
    return changes


class ChangedSince(StudioError):
    """A run that is not resumed, since it is not what its checkpoint was made from; ``changes`` says in what."""

    def __init__(self, what: str, fix: str, code: str, changes: list[Change]):
        super().__init__(what, fix, code=code)
        self.changes = changes

    def __reduce__(self):
        return (type(self), (self.what, self.fix, self.code, self.changes))


def refused(changes: list[Change]) -> StudioError:
    told = "\n".join(f"- {change.told()}" for change in changes)
    fix = "Put these back in the run's recipe.yaml, or train a new run with them (`again RUN field=value`)."
    return ChangedSince(f"This cannot change in the middle of a run:\n{told}\n", fix, "resume_refused", changes)


def changed(changes: list[Change]) -> StudioError:
    told = "\n".join(f"- {change.told()}" for change in changes)
    return ChangedSince(
        f"The run is not what its checkpoint was made from:\n{told}\n",
        "Put it back as it was, or go on with the changes: --accept-changes, or Resume with these changes on the page.",
        "resume_changed",
        changes,
    )


def require_inputs(run: Run, recipe: Recipe, origin: dict[str, Any] | None) -> None:
    """Say of data, a model or an adapter that is gone that it was there when the run started, and what to do.

    Raises:
        StudioError: ``data_gone``, ``model_gone`` or ``adapter_gone``.
    """
    if not origin:
        return
    again = f"or train a new run from what is there: python app.py again {run.id}"
    try:
        source_files(recipe.data)
    except (StudioError, OSError) as error:
        data = origin.get("data") or {}
        digest = f", fingerprint {data['fingerprint'][:12]}" if data.get("fingerprint") else ""
        rows = f", {data['rows']:,} training rows" if isinstance(data.get("rows"), int) else ""
        raise StudioError(
            f"The dataset {_first_missing(recipe)} is gone. It was there when the run started{_when(run)}{rows}"
            f"{digest}.",
            f"Restore it at that path, set data.source in {run.folder / 'recipe.yaml'} to where it is now, {again} "
            "data.source=PATH.",
            field="data.source",
            code="data_gone",
        ) from error
    place = (origin.get("model") or {}).get("place")
    if _is_path(recipe.model.id) and not Path(recipe.model.id).expanduser().exists():
        raise StudioError(
            f"The model {recipe.model.id} is gone. It was there when the run started{_when(run)}"
            f"{f' (read from {place})' if place and place != recipe.model.id else ''}.",
            f"Restore it at that path, {again} model.id=PATH.",
            field="model.id",
            code="model_gone",
        )
    if recipe.model.adapter and _is_local_adapter(recipe, origin):
        try:
            find_adapter(recipe.model.adapter)
        except StudioError as error:
            raise StudioError(
                f"The adapter {recipe.model.adapter} is gone. It was there when the run started{_when(run)}.",
                f"Restore it, {again} model.adapter=null.",
                field="model.adapter",
                code="adapter_gone",
            ) from error


def _now(recipe: Recipe) -> dict[str, Any]:
    """What can be said of a run without reading its rows."""
    now: dict[str, Any] = {
        "recipe": recipe_part(recipe),
        "data": {"sources": source_files(recipe.data)},
        "versions": versions(),
    }
    try:
        folder = store.local_folder(recipe.pinned_model)
    except (StudioError, OSError):  # the worker says what is wrong with it
        folder = None
    if folder:
        now["model"] = {"revision": store.revision_of(folder), "fingerprint": folder_fingerprint(folder)}
    if recipe.model.adapter:
        now["adapter"] = {"fingerprint": folder_fingerprint(find_adapter(recipe.model.adapter))}
    return now


def _told_by_the_worker(run: Run, known: list[Change]) -> list[Change]:
    """What the worker has found by reading the rows, if it is why the run failed."""
    last = last_events(run.events_path)
    if not last or last[-1]["kind"] != "failed" or last[-1].get("code") != "resume_changed":
        return []
    named = {change.field for change in known}
    told = [one for one in last[-1].get("changes") or [] if isinstance(one, dict) and set(one) == CHANGE_FIELDS]
    return [Change(**one) for one in told if one["field"] not in named]


def _lost_checkpoint(run: Run) -> list[Change]:
    """That a run which had a checkpoint begins at its first step."""
    had = last_events(run.events_path, ("checkpoint",))
    if not had or not isinstance(had[-1].get("step"), int):
        return []
    why = "What was trained is lost: the run would begin again at its first step."
    return [Change("checkpoint", "ask", f"step {had[-1]['step']:,}", "none", why)]


def _first_missing(recipe: Recipe) -> str:
    for spec in sources.parts(recipe.data):
        try:
            sources.locate(spec, spec.split)
        except StudioError:
            return spec.source
    return recipe.data.holdout_source or recipe.data.source


def _when(run: Run) -> str:
    started = last_events(run.events_path, ("started",))
    if not started or not started[-1].get("time"):
        return ""
    return time.strftime(" on %Y-%m-%d at %H:%M", time.localtime(started[-1]["time"]))


def _is_path(model_id: str) -> bool:
    return os.path.isabs(os.path.expanduser(model_id))


def _is_local_adapter(recipe: Recipe, origin: dict[str, Any]) -> bool:
    place = (origin.get("adapter") or {}).get("place")
    return bool(place) and not Path(place).exists()
