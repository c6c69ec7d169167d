"""One run: a folder with everything that was asked, that happened and that came out."""

from __future__ import annotations

import os
import secrets
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from studio.errors import StudioError
from studio.jobs import process
from studio.recipe import Recipe, Resolved, is_template_file
from studio.runs.damage import damage_of, is_run, recipe_damage
from studio.runs.events import TERMINAL, EventLog, last_events, parse_lines, read_events, read_portions
from studio.runs.label import Label
from studio.runs.plain_file import open_unlinked
from studio.runs.run_facts import recipe_name
from studio.runs.snapshot import RunSnapshot
from studio.workspace import Workspace, safe_name

STATUSES = ("queued", "running", "paused", "stopped", "finished", "failed", "interrupted")
_STARTING_SECONDS = 10.0  # between claiming a run and its worker's process being written down
_ENDING_SECONDS = 15.0  # between a worker's last event and the end of its process
_REOPENED = ("paused", "stopped", "failed", "interrupted")
_NOT_REOPENED = {
    "queued": "It starts by itself when the studio is open (`python app.py`) and no other run is in front of it.",
    "running": "Stop it first, or wait until it has finished.",
    "finished": "Continue it for more epochs (`resume RUN --epochs N`) or steps (`resume RUN --steps N`).",
}


class Run:
    """A run's folder. Holds no state of its own: every property is read from the files."""

    def __init__(self, folder: Path):
        self.folder = folder

    @classmethod
    def open(cls, id: str) -> Run:
        """The run with this id in the current workspace; a damaged one too, see :attr:`damage`.

        Raises:
            StudioError: there is none.
        """
        folder = Workspace.current().run(id)
        if not is_run(folder):
            raise StudioError(f"There is no run {id!r}.", "List the runs with `python app.py runs`.")
        return cls(folder)

    @classmethod
    def create(cls, recipe: Recipe, label: Label | None = None, repeated: Resolved | None = None) -> Run:
        """A new queued run of a recipe, with its paths made absolute. The folder appears whole or not at all.

        Args:
            repeated: what a run of the same recipe resolved; the new one computes in the same way, if it can.

        Raises:
            StudioErrors: the recipe has problems.
            StudioError: the folder cannot be written (no space, no permission).
        """
        recipe.check()
        runs = Workspace.current().runs
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]  # to the millisecond: runs start in this order
        name = safe_name(recipe.name or recipe.method.kind, "run")[:40].lower()
        id = f"{stamp}-{name}-{secrets.token_hex(2)}"
        aside = runs / f".{id}.part"
        try:
            aside.mkdir()
            _settled(recipe).model_copy(update={"resolved": _way(repeated)}).save(aside / "recipe.yaml")
            if label:
                label.write(aside)
            aside.rename(runs / id)
        except OSError as error:
            raise StudioError(
                f"The run's folder cannot be written: {error.strerror}.", "Free some disk space, or set STUDIO_HOME."
            ) from error
        return cls(runs / id)

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def recipe(self) -> Recipe:
        """What was asked for.

        Raises:
            StudioError: ``recipe.yaml`` is missing or damaged.
        """
        path = self.folder / "recipe.yaml"
        if reason := recipe_damage(path):
            raise StudioError(
                f"The run {self.id} is damaged: {reason}",
                f"Restore {path} from a copy, or delete the run.",
                code="run_damaged",
            )
        return Recipe.load(path)

    @property
    def damage(self) -> str:
        """What of the folder cannot be read, as one sentence; empty if the run is sound."""
        return damage_of(self.folder)

    @property
    def events_path(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def log_path(self) -> Path:
        return self.folder / "log.txt"

    @property
    def model_dir(self) -> Path:
        """Where the adapter or the full model is, once there is one."""
        return self.folder / "model"

    @property
    def checkpoints_dir(self) -> Path:
        return self.folder / "checkpoints"

    def events(self, since: int = 0) -> list[dict[str, Any]]:
        """The events, from the byte offset ``since`` of ``events.jsonl`` on."""
        return read_events(self.events_path, since)[0]

    def view(self) -> RunSnapshot:
        """All events folded into one view."""
        view = RunSnapshot()
        for events, _ in read_portions(self.events_path):
            view.add(events)
        return view

    @property
    def process(self) -> Any:
        """The worker (a ``psutil.Process``) if it is alive on this machine, else None."""
        return process.find(process.read(self.folder / "process.json"))

    @property
    def status(self) -> str:
        """One of ``STATUSES``: the last event, and whether that very worker process is alive.

        A run whose events cannot be read has failed.
        """
        try:
            last = last_events(self.events_path)
        except OSError:
            return "failed"
        if last and last[-1]["kind"] in TERMINAL:
            return last[-1]["kind"]
        worker = process.read(self.folder / "process.json")
        if worker is None:
            return "queued" if not self.claimed else self._starting()
        return "running" if process.find(worker) else "interrupted"

    def _starting(self) -> str:
        try:
            age = time.time() - (self.folder / "claim").stat().st_mtime
        except OSError:  # reopened just now
            return "queued"
        return "queued" if age < _STARTING_SECONDS else "interrupted"

    @property
    def label(self) -> Label:
        """What a person has said about the run."""
        return Label.read(self.folder)

    @property
    def claimed(self) -> bool:
        return os.path.exists(self.folder / "claim")

    def claim(self) -> bool:
        """Take a queued run to start its worker; False if another launcher has taken it."""
        try:
            os.close(os.open(self.folder / "claim", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except (FileExistsError, NotADirectoryError):
            return False
        return True

    @property
    def has_model(self) -> bool:
        """Whether a tuned model has been saved."""
        return any(os.path.exists(self.model_dir / name) for name in ("adapter_config.json", "config.json"))

    def stop(self) -> None:
        """Ask the worker to stop at the end of its step, with a checkpoint and a usable model.

        A run that is still queued is stopped at once, without a model.
        """
        (self.folder / "stop").touch()

    @property
    def stopping(self) -> bool:
        return os.path.exists(self.folder / "stop")

    def pause(self) -> None:
        """Ask the worker to write a checkpoint at the end of its step and to end, so that its device is free.

        The run can be resumed to the very same weights; no model is saved. A queued run is put aside at once.
        """
        (self.folder / "pause").touch()

    @property
    def pausing(self) -> bool:
        return os.path.exists(self.folder / "pause")

    @property
    def ending(self) -> str | None:
        """How the worker is asked to end: ``stopped``, ``paused``, or not."""
        return "stopped" if self.stopping else "paused" if self.pausing else None

    def cancel(self) -> None:
        """End the worker at once. The run is stopped, with what its last checkpoint has and without a model.

        Raises:
            StudioError: the run has ended already, or the worker cannot be ended.
        """
        status = self.status
        if status == "queued" and self.process is None:
            self.stop()  # the launcher says so; a worker that has just been started obeys it too
            return
        if status not in ("queued", "running"):
            raise StudioError(f"The run {self.id} cannot be cancelled: it is {status}.", "Nothing needs to be done.")
        try:
            process.kill(process.read(self.folder / "process.json"))
        except (psutil.TimeoutExpired, PermissionError, psutil.AccessDenied) as error:
            raise StudioError(f"The worker of {self.id} cannot be ended: {error}.", "End it by its pid.") from error
        if self.status not in TERMINAL:
            steps = last_events(self.events_path, ("step",))
            log = EventLog(self.events_path)
            log.write("stopped", step=steps[-1]["step"] if steps else 0, what="Cancelled.")
            log.close()

    def reopen(self, recipe: Recipe | None = None, *, continued: bool = False) -> None:
        """Put a paused, stopped, failed or interrupted run back into the queue; it goes on from the last checkpoint.

        A ``queued`` event says so, which makes the end that is in ``events.jsonl`` a thing of the past. Whoever claims
        the run then starts its worker. Of two calls at once one is refused.

        Args:
            recipe: what the run's recipe is to be from now on.
            continued: it has a later end; a finished run is put back, too.

        Raises:
            StudioError: it is queued or running, it has finished, or its old worker has not ended yet.
        """
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.folder / "reopen.lock", timeout=0):
                status = self.status
                if status not in _REOPENED and not (continued and status == "finished"):
                    what = f"The run {self.id} cannot be resumed: it is {status}."
                    raise StudioError(what, _NOT_REOPENED[status], code="not_resumable")
                self._wait_for_old_worker()
                for request in ("stop", "pause", "place"):
                    (self.folder / request).unlink(missing_ok=True)
                if recipe:
                    recipe.save(self.folder / "recipe.yaml")
                log = EventLog(self.events_path)
                log.write("queued")
                log.close()
                (self.folder / "process.json").unlink(missing_ok=True)
                (self.folder / "claim").unlink(missing_ok=True)  # last: from here on anyone may start it
        except Timeout as error:
            raise StudioError(f"The run {self.id} is being resumed already.", "Look at it with `runs`.") from error
        except OSError as error:
            raise StudioError(
                f"The run {self.id} cannot be resumed: {error.filename}: {error.strerror}.", "Look at its folder."
            ) from error

    def _wait_for_old_worker(self) -> None:
        """A worker that has written its last event still needs a moment to end."""
        worker = self.process
        if worker is None:
            return
        try:
            worker.wait(timeout=_ENDING_SECONDS)
        except psutil.TimeoutExpired as error:
            raise StudioError(
                f"The worker of {self.id} (process {worker.pid}) has not ended yet.", "Wait a little, or end it."
            ) from error

    def summary(self) -> dict[str, Any]:
        """The run as ``python app.py runs --json`` lists it. ``started`` and ``ended`` are unix seconds or None.

        Of a damaged run ``damaged`` says why.
        """
        status, damage = self.status, self.damage
        try:
            tail = last_events(self.events_path)
            steps = [event for event in last_events(self.events_path, ("step",)) if "step" in event]
            head = _first_started(self.events_path)
        except OSError:  # ``damage`` says so
            tail, steps, head = [], [], {}
        ended = tail[-1].get("time") if tail and status in (*TERMINAL, "interrupted") else None
        return {
            "id": self.id,
            "status": status,
            "recipe": recipe_name(self.folder),
            "step": steps[-1]["step"] if steps else 0,
            "max_steps": self._max_steps(head, steps),
            "loss": next((e["loss"] for e in reversed(steps) if e.get("loss") is not None), None),
            "started": head.get("time"),
            "ended": ended,
            **({"damaged": damage} if damage else {}),
        }

    def _max_steps(self, head: dict[str, Any], steps: list[dict[str, Any]]) -> int:
        """The last step that is planned; of a continued run the newest start says it."""
        planned = head.get("max_steps", 0)
        if not steps or steps[-1]["step"] <= planned:
            return planned
        newest = last_events(self.events_path, ("started",))
        return newest[-1].get("max_steps", planned) if newest else planned


def _settled(recipe: Recipe) -> Recipe:
    """The recipe with whole paths, so that the run can be resumed from any folder."""

    def whole(name: str) -> str:
        try:
            path = Path(name).expanduser()
            return str(path.resolve()) if not name.startswith("builtin/") and path.exists() else name
        except (OSError, ValueError, RuntimeError):  # no file system takes such a name
            return name

    template = recipe.data.chat_template
    template = whole(template) if is_template_file(template) else template
    second = recipe.data.holdout_source
    data = {
        "source": whole(recipe.data.source),
        "chat_template": template,
        "mix": [part.model_copy(update={"source": whole(part.source)}) for part in recipe.data.mix],
        "holdout_source": whole(second) if second else None,
    }
    return recipe.model_copy(
        update={
            "resolved": None,
            "model": recipe.model.model_copy(update={"id": whole(recipe.model.id)}),
            "data": recipe.data.model_copy(update=data),
        }
    )


def _way(resolved: Resolved | None) -> Resolved | None:
    """Of what a run resolved, how it computed."""
    fields = {"device", "processor", "dtype", "attention", "compiled", "threads"}
    return Resolved(**resolved.model_dump(include=fields)) if resolved else None


def _first_started(path: Path) -> dict[str, Any]:
    try:
        with open_unlinked(path) as file:
            head = file.read(1 << 16)
    except FileNotFoundError:
        return {}
    return next((event for event in parse_lines(head) if event["kind"] == "started"), {})


def count_runs() -> int:
    """How many runs the current workspace has; costs one look into the folder."""
    return sum(not name.startswith(".") for name in os.listdir(Workspace.current().runs))


def list_runs() -> list[Run]:
    """All runs of the current workspace, newest first; damaged ones too."""
    root = Workspace.current().runs
    return [Run(root / name) for name in sorted(os.listdir(root), reverse=True) if is_run(root / name)]
