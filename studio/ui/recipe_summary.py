"""What is known about a recipe before it runs: its rows, its size, what it takes, and the side panel that says so."""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from studio.data.conversations import Survey, invalid_rows
from studio.data.count import count_rows, countable
from studio.data.files import identity
from studio.data.quality_report import INVALID
from studio.data.sources import locate, split_in
from studio.data.sources import parts as sources
from studio.errors import StudioError
from studio.models import store
from studio.models.headers import read_config
from studio.models.memory_estimate import ELEMENT_BYTES, Estimate, estimate, largest
from studio.recipe import ENCODER_SETTINGS, DataSpec, Recipe
from studio.recipe.methods import METHODS, WHOLE
from studio.recipe.warnings import warnings
from studio.runs import Run
from studio.runs.feed import Feed
from studio.runs.index import RunIndex
from studio.training.check import check_state
from studio.training.launch_check import Examined, LaunchCheck, check_launch
from studio.ui import views
from studio.ui.data.preview_process import Viewer
from studio.ui.examinations import Answers, Examinations, StillExamining
from studio.ui.field_names import element_ids, worded
from studio.workspace import Workspace

_ENCODER_ONLY = {*ENCODER_SETTINGS, "holdout"}  # settings that do not change the conversations
_RECENT = 20  # runs that are looked at
_LAUNCH_SECONDS = 60.0
_COUNTED_BYTES = 64_000_000  # larger files are not counted for the panel; the worker counts them


@dataclass(frozen=True)
class SidePanel:
    """The side panel: its HTML, whether to launch, whether rows wait to be dropped, whether rows are being counted."""

    html: str
    ready: bool
    asks: bool
    counting: bool


class Count:
    """The rows of large files, counted in a thread."""

    def __init__(self) -> None:
        self.rows: int | None = None
        self.share = 0.0
        self.error = ""

    @property
    def going(self) -> bool:
        """Whether it goes on."""
        return self.rows is None and not self.error

    def run(self, source: Path, split: str) -> None:
        """Count, and say how far it is."""
        try:
            self.rows = count_rows(source, lambda share: setattr(self, "share", share), split)
        except (StudioError, OSError) as error:
            self.error = str(error)

    def said(self) -> str:
        """The count in words."""
        if self.rows is not None:
            return f"{self.rows:,} rows"
        return f"Counting the rows: {self.share:.0%}" if self.going else f"Not counted: {self.error}"


def _refused(recipe: Recipe) -> Any:
    """What the report over the whole dataset says of rows that cannot be trained on; None without a report."""
    try:
        report, _ = check_state(recipe)
    except StudioError:  # the model is not here, and the panel says so
        return None
    return next((finding for finding in report.findings if finding.kind in INVALID), None) if report else None


class RecipeSummary:
    """One for the whole studio.

    Args:
        machine: what ``machine_memory`` says.
        index, feed: the runs, for the pace of earlier ones.
        patience: seconds that the panel waits for the model's files and the first rows to be examined; after that it
            says that they are, and asks again.
    """

    def __init__(self, viewer: Viewer, machine: dict, index: RunIndex, feed: Feed, patience: float = 60.0):
        self._viewer, self._machine, self._index, self._feed = viewer, machine, index, feed
        self._patience = patience
        self._examinations = Examinations(viewer)
        self._lock = threading.Lock()
        self._counts: dict[str, Count] = {}
        self._surveys = Answers("survey")
        self._chosen: tuple[str, str | None] = ("", None)  # by the version of the index

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``, as ``train.device: auto`` would take it."""
        return "cpu" if self._machine["device"] == "CPU" else "cuda"

    def survey(self, recipe: Recipe, session: str = "", patience: float = _LAUNCH_SECONDS) -> Survey | None:
        """What one pass over the dataset tells; None if it would take long (a Hub dataset, a large file, rows
        that take seconds to read).

        Args:
            session: of the browser that asks.
            patience: seconds to wait.

        Raises:
            StillExamining: it takes longer.
            StudioError: the dataset cannot be read.
        """
        data = recipe.data
        files = self._files(data)
        if files is None or sum(size for _, size, _ in files) > _COUNTED_BYTES:
            return None
        key = str((files, data.model_dump_json(exclude=_ENCODER_ONLY), recipe.model.task))
        return self._surveys.of(key, partial(self._asked_survey, recipe, session), patience)

    def _asked_survey(self, recipe: Recipe, session: str) -> Survey | None:
        try:
            return self._viewer.survey(recipe, session)
        except StudioError as error:
            if error.code == "survey_too_long":
                return None
            raise

    @staticmethod
    def _files(data: DataSpec) -> list[tuple[str, int, int]] | None:
        """The files of a dataset as ``identity`` has them; None if some of it is on the Hub."""
        found = [(locate(spec, spec.split), split_in(spec)) for spec in sources(data)]
        return None if any(path is None for path, _ in found) else [f for one in found for f in identity(*one)]

    def count(self, recipe: Recipe) -> Count | None:
        """How far the rows of a large local dataset have been counted in the background; None if they are not.

        Raises:
            StudioError: there is no such dataset.
        """
        data = recipe.data
        files = self._files(data)
        if files is None or sum(size for _, size, _ in files) <= _COUNTED_BYTES:
            return None
        if data.mix or data.skip_rows or data.max_rows or not countable(locate(data, data.split), split_in(data)):
            return None
        key = str(files)
        with self._lock:
            if key not in self._counts:
                self._counts[key] = Count()
                source = locate(data, data.split)
                threading.Thread(target=self._counts[key].run, args=(source, split_in(data)), daemon=True).start()
            return self._counts[key]

    def invalid(self, recipe: Recipe, seen: Survey | None, examined: Examined | None = None) -> StudioError | None:
        """What asks whether rows that cannot be trained on are to be dropped, if it has not been answered yet; or
        refuses them, if the recipe says so.

        Args:
            examined: the first rows, encoded: what the chat template refuses shows there.
        """
        if recipe.data.invalid_rows == "drop":
            return None
        counts, first, among = seen.invalid if seen else {}, seen.first if seen else {}, None
        if not counts and (refused := _refused(recipe)):
            row, reason = refused.rows[0]
            counts, first = {reason.rstrip("."): refused.count}, {reason.rstrip("."): f"row {row:,}"}
        if not counts and examined and examined.rejected:
            counts, first, among = examined.rejected, examined.first, examined.rows
        if not counts:
            return None
        refusal = invalid_rows(counts, first)
        what = refusal.what if among is None else f"Of the first {among:,} rows: {refusal.what}"
        fix = "Correct them, or leave them out with the button below."
        if recipe.data.invalid_rows == "stop":
            fix = "Correct them, or let the recipe leave them out (data.invalid_rows)."
        return StudioError(what, fix, field=refusal.field, code="rejected_rows")

    def launch_check(self, recipe: Recipe, patience: float | None = None, session: str = "") -> LaunchCheck | None:
        """What stands in the way of a launch; None while the model and the first rows are still being examined.

        Args:
            patience: seconds to wait; None takes that of the panel.
            session: of the browser that asks.
        """
        patience = self._patience if patience is None else patience
        try:
            return check_launch(recipe, examine=partial(self._examinations.of, patience=patience, session=session))
        except StillExamining:
            return None

    def stops(self, recipe: Recipe, session: str = "") -> list[StudioError]:
        """Everything that stands in the way of a launch, waited for."""
        unknown = StudioError("The model and the first rows are still being checked.", "Try again in a moment.")
        checked = self.launch_check(recipe, _LAUNCH_SECONDS, session)
        if checked is None:
            return [unknown]
        if checked.problems:
            return checked.problems
        try:
            asked = self.invalid(recipe, self.survey(recipe, session), checked.examined)
        except StillExamining:
            return [unknown]
        except StudioError as error:
            return [error]
        return [asked] if asked else []

    def glance(self, recipe: Recipe, session: str = "") -> SidePanel:
        """The side panel: what it says, whether the recipe can be launched, and what else it shows.

        Args:
            session: of the browser that shows it.
        """
        checked = self.launch_check(recipe, session=session)
        problems = list(checked.problems if checked else recipe.problems())
        seen = counted = None
        surveying = False
        if not any(p.field and p.field.startswith("data") for p in problems):
            try:
                counted = self.count(recipe)
                seen = self.survey(recipe, session, self._patience)
            except StillExamining:
                surveying = True
            except StudioError as error:
                problems.append(error)
        examined = checked.examined if checked else None
        asked = self.invalid(recipe, seen, examined) if not problems else None
        folder, model = self._model(recipe, problems)
        rows = "Rows will be counted when training starts."
        if seen:
            rows = f"{seen.rows:,} rows"
        elif surveying:
            rows = "The rows are being counted."
        elif counted:
            rows = counted.said()
        lines = [
            ("Model", _short(recipe.model.id), model),
            ("Data", _short(recipe.data.source), rows),
            ("Method", _method_line(recipe), ""),
        ]
        known_rows = seen.rows if seen else counted.rows if counted else None
        steps = self._steps(recipe, known_rows)
        lines += self._cost(recipe, folder, seen, known_rows, steps)
        stops = [*problems, *([asked] if asked else [])]
        waiting = checked is None or (surveying and not stops)
        html = views.glance(
            lines,
            [worded(stop) for stop in stops],
            [worded(warning) for warning in warnings(recipe, steps)],
            waiting=waiting,
            invalid=element_ids(stops, recipe.method.kind),
        )
        offers = asked is not None and recipe.data.invalid_rows == "ask"
        going = waiting or surveying or bool(counted and counted.going)
        return SidePanel(html, not waiting and not stops, offers, going)

    @staticmethod
    def _model(recipe: Recipe, problems: list[StudioError]) -> tuple[Path | None, str]:
        """The folder of the model if it is on this disk, and what the panel says where it is not."""
        try:
            folder = store.local_folder(recipe.model)
        except StudioError:  # among the problems
            return None, ""
        refused = any((problem.field or "").startswith("model.") for problem in problems)
        return folder, "" if folder or refused else "Will be downloaded once when training starts."

    @staticmethod
    def _steps(recipe: Recipe, rows: int | None) -> int | None:
        """About how many steps a run takes; None if that is not known before the launch."""
        from studio.training.step_count import planned_steps

        if recipe.train.max_steps > 0:
            return recipe.train.max_steps
        if not rows or recipe.train.packing:
            return None
        data = recipe.data
        shared = not (data.holdout_rows or data.holdout_column or data.holdout_source)
        training = max(1, rows - (int(rows * data.holdout) if shared else min(data.holdout_rows, rows - 1)))
        return planned_steps(training, recipe.train)

    def _cost(
        self, recipe: Recipe, folder: Path | None, seen: Survey | None, rows: int | None, steps: int | None
    ) -> list[tuple[str, str, str]]:
        """Trainable parameters, memory and steps, as far as they are known."""
        lines = []
        numbers = self.numbers(recipe, folder, seen)
        if numbers is not None:
            share = numbers.trainable_parameters / max(1, numbers.total_parameters)
            lines.append(("Trainable", f"{views.number(numbers.trainable_parameters)} parameters", f"{share:.2%}"))
            machine = self._machine
            total, room = numbers.memory_bytes["total"], machine["total_bytes"]
            fits = "fits in" if total < room else "does not fit in"
            lines.append(("Memory", f"about {views.size(total)}", f"{fits} {views.size(room)} ({machine['device']})"))
            lines.append(_disk_line(numbers.disk_bytes))
        if rows and recipe.train.packing:
            lines.append(("Steps", "known at the launch", "Rows are packed when they are encoded."))
        elif rows and steps:
            lines.append(("Steps", f"about {steps:,}", self._time_line(recipe, steps)))
        return lines

    def numbers(self, recipe: Recipe, folder: Path | None, seen: Survey | None) -> Estimate | None:
        """The estimate for a recipe, from the model's config.json alone; None if that is not here."""
        if folder is None or recipe.problems():
            return None
        length = seen.longest_tokens(recipe.data.max_length) if seen else None
        try:
            return estimate(recipe, read_config(folder), **self._options(recipe, folder, length))
        except (StudioError, OSError, ValueError, ArithmeticError):  # the launch says what is wrong with the model
            return None

    def largest(self, recipe: Recipe, folder: Path | None, seen: Survey | None) -> dict[str, int | None]:
        """The largest batch and the longest rows that would fit this machine; empty if that cannot be told."""
        if folder is None or recipe.problems():
            return {}
        length = seen.longest_tokens(recipe.data.max_length) if seen else None
        try:
            room = self._machine["total_bytes"]
            return largest(recipe, read_config(folder), room, **self._options(recipe, folder, length))
        except (StudioError, OSError, ValueError, ArithmeticError):  # as above
            return {}

    def _options(self, recipe: Recipe, folder: Path, length: int | None) -> dict[str, Any]:
        """What the estimate is told. The number format that ``auto`` takes here is known from the last run, which has
        tried it; until then it is the larger one."""
        known = recipe.model.dtype == "auto" and recipe.method.kind not in WHOLE
        return {"device": self.device, "folder": folder, "length": length, "dtype": self._auto() if known else None}

    def _auto(self) -> str | None:
        """The number format that the newest run took for a frozen base when it was free to choose."""
        version = self._index.version(2.0)
        if self._chosen[0] != version:
            self._chosen = version, next(filter(None, map(self._auto_of, self._index.look(2.0)[:_RECENT])), None)
        return self._chosen[1]

    def _auto_of(self, known: tuple[Run, str]) -> str | None:
        try:
            recipe = known[0].recipe
        except StudioError:  # its folder has just gone
            return None
        found, free = recipe.resolved, recipe.model.dtype == "auto" and recipe.method.kind not in WHOLE
        here = found is not None and found.device == self._machine["device"]
        return found.dtype if free and here and found.dtype in ELEMENT_BYTES else None

    def _time_line(self, recipe: Recipe, steps: int) -> str:
        """The time that these steps would take at the pace of the last run with the same model, data and method."""
        for run, _ in self._index.look(2.0)[:_RECENT]:
            try:
                earlier = run.recipe
            except StudioError:  # damaged, or its folder has just gone
                continue
            same = (
                earlier.model.id,
                earlier.data.source,
                earlier.method.kind,
                earlier.train.per_device_train_batch_size,
            )
            if same != (
                recipe.model.id,
                recipe.data.source,
                recipe.method.kind,
                recipe.train.per_device_train_batch_size,
            ):
                continue
            view = self._feed.view(run)
            if view.started and view.step > view.first_step and view.first_step_time:
                pace = (view.last_time - view.first_step_time) / (view.step - view.first_step)
                return f"about {views.duration(pace * steps)} (based on your last similar run)"
        return "The time estimate appears after the first steps."


def _disk_line(disk_bytes: dict[str, int]) -> tuple[str, str, str]:
    free = shutil.disk_usage(Workspace.current().runs).free
    fits = "fits in" if disk_bytes["total"] < free else "does not fit in"
    return "Disk", f"up to {views.size(disk_bytes['total'])}", f"{fits} {views.size(free)} free"


def _short(text: str) -> str:
    return text if len(text) <= 60 else "…" + text[-58:]


def _method_line(recipe: Recipe) -> str:
    """The method in a few words: LoRA, rank 16; QLoRA, 4 bits, rank 16; Full fine-tuning."""
    method, quantization = recipe.method, recipe.model.quantization
    parts = [("Q" * (quantization != "none" and method.kind == "lora")) + METHODS[method.kind].title]
    if quantization != "none":
        parts.append("8 bits" if quantization == "int8" else "4 bits")
    if rank := getattr(method, "r", None):
        parts.append(f"rank {rank}")
    return ", ".join(parts)
