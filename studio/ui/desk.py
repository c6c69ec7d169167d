"""What the tabs share: the launcher, the live feed, the inference engine, and what is known about the chosen recipe."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.data.conversations import Survey, invalid_rows
from studio.data.count import count_rows, countable
from studio.data.files import identity
from studio.data.report import INVALID
from studio.data.sources import locate, parts
from studio.errors import StudioError
from studio.evaluation.report import Told, report_state
from studio.models import store
from studio.models.machine import machine_memory
from studio.models.memory import Estimate, estimate, largest
from studio.recipe import DataSpec, Recipe
from studio.recipe_methods import METHODS
from studio.runs import Launcher, Run
from studio.runs.feed import Feed
from studio.training.check import check_state, report_path, say_progress
from studio.ui import views
from studio.ui.caretaker import Caretaker
from studio.ui.viewer import Viewer
from studio.workspace import ASSETS, Workspace, safe_name

_COUNTED_BYTES = 64_000_000  # larger files are not counted for the panel; the worker counts them
_CHECKS = 2  # of whole datasets at a time; each takes every core
DEFAULT_RECIPE = ASSETS.parent / "recipes" / "quickstart.yaml"


@dataclass(frozen=True)
class Glance:
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

    def run(self, source: Path) -> None:
        """Count, and say how far it is."""
        try:
            self.rows = count_rows(source, lambda share: setattr(self, "share", share))
        except (StudioError, OSError) as error:
            self.error = str(error)

    def said(self) -> str:
        """The count in words."""
        if self.rows is not None:
            return f"{self.rows:,} rows"
        return f"Counting the rows: {self.share:.0%}" if self.going else f"Not counted: {self.error}"


def ask_to_drop(invalid: dict[str, int], first: dict[str, str]) -> StudioError:
    """The question that stands in the way of a launch while some rows cannot be trained on."""
    refusal = invalid_rows(invalid, first)
    return StudioError(refusal.what, "Mend them, or leave them out with the button below.", field=refusal.field)


class Desk:
    """One object for the whole studio, passed to every tab. Loads no model and no torch until something needs them."""

    def __init__(self, launcher: Launcher):
        self.launcher = launcher
        self.feed = Feed()
        self.index = launcher.index
        self.viewer = Viewer()
        self.machine = machine_memory()
        self.stops: dict[str, Any] = {}  # by browser: the answers that are being written (``studio.ui.talk``)
        self.rounds: dict[str, Any] = {}  # by browser: the round of blind judging (``studio.ui.judging``)
        self.downloads = Path(tempfile.mkdtemp(prefix="sft-studio-"))  # Gradio hands out no file of the workspace
        self.suites: dict[str, Any] = {}  # by browser: the suite that is asked of its panes (``studio.ui.suite_panel``)
        self._engine: Any = None
        self.on_zero_gpu: Any = None  # what answers instead of the engine on a Space with ZeroGPU
        self.caretaker = Caretaker(self)
        launcher.before_start = self.caretaker.make_room
        self._lock = threading.Lock()
        self._counts: dict[str, Count] = {}
        self._surveys: dict[tuple, Survey | StudioError] = {}
        self._downloads: dict[str, subprocess.Popen] = {}
        self._checks: dict[Path, subprocess.Popen] = {}
        self._evaluation: subprocess.Popen | None = None

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``, as ``train.device: auto`` would take it."""
        return "cpu" if self.machine["device"] == "CPU" else "cuda"

    # the recipe in the form

    def draft(self) -> Recipe:
        """The recipe that the form was left with, or the quickstart."""
        path = Workspace.current().draft
        if path.exists():
            try:
                recipe = Recipe.load(path)
            except StudioError:
                return Recipe.load(DEFAULT_RECIPE)
            if not recipe.problems():
                return recipe
        return Recipe.load(DEFAULT_RECIPE)

    def keep(self, recipe: Recipe) -> None:
        """Remember the form; what has problems is not kept."""
        if not recipe.problems():
            recipe.save(Workspace.current().draft)

    # the model

    @property
    def engine(self) -> Any:
        """The inference engine, made on first use."""
        with self._lock:
            if self._engine is None:
                from studio.inference import Engine

                self._engine = Engine()
                self.caretaker.watch()
            return self._engine

    @property
    def opened_engine(self) -> Any:
        """The inference engine if it was ever used, else None."""
        return self._engine

    def settle_on_zero_gpu(self) -> None:
        """Where this is a Space with ZeroGPU, let answers be computed where the GPU is. Call it once, at the start."""
        from studio.inference import zerogpu

        if zerogpu.on_zero_gpu():
            self.on_zero_gpu = zerogpu.answering(self.engine)

    @staticmethod
    def without_model(recipe: Recipe) -> bool:
        """Whether the chosen model is still to be fetched."""
        try:
            return store.local_folder(recipe.model) is None
        except StudioError:  # it cannot be had as it is named
            return False

    def fetch(self, recipe: Recipe, *, quiet: bool = True) -> None:
        """Start getting the model in a process of its own, unless it is here or on its way."""
        id = recipe.model.id
        running = self._downloads.get(id)
        if store.is_local(recipe.model) or (running and running.poll() is None):
            return
        command = [sys.executable, "-m", "studio.models.fetch", id]
        if recipe.model.revision:
            command += ["--revision", recipe.model.revision]
        if recipe.model.trust_remote_code:
            command.append("--trust-remote-code")
        output = subprocess.DEVNULL if quiet else None
        self._downloads[id] = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=output, cwd=ASSETS.parent
        )

    def check_rows(self, recipe: Recipe) -> None:
        """Start the report over the whole dataset in a process of its own, unless it is here or being made."""
        with self._lock:
            self._start_check(recipe)

    def _start_check(self, recipe: Recipe) -> None:
        path = report_path(recipe)
        going = [process for process in self._checks.values() if process.poll() is None]
        running = self._checks.get(path)
        if check_state(recipe)[0] or (running and running.poll() is None):
            return
        if len(going) >= _CHECKS:
            raise StudioError("Other datasets are being checked already.", "Wait until one of them is done.")
        given = path.with_suffix(".yaml")
        recipe.save(given)
        with path.with_suffix(".log").open("wb") as log:
            self._checks[path] = started = subprocess.Popen(
                [sys.executable, "-m", "studio.training.check", str(given)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=ASSETS.parent,
            )
        say_progress(path, started.pid)  # it takes a while until the process says so itself

    def clean(self, recipe: Recipe, without: list[str]) -> tuple[Path, Path, str]:
        """Write the cleaned copy of a recipe's dataset into the workspace.

        Returns:
            Its path, a copy of it that the page may hand out, and what was done, in words.

        Raises:
            StudioError: it cannot be made.
        """
        report = report_path(recipe)
        folder = Workspace.current().folder("datasets/cleaned")
        stem = safe_name(Path(recipe.data.source).name.split(".")[0], "data")
        key = hashlib.sha256(" ".join(sorted(without)).encode()).hexdigest()[:4]
        target = folder / f"{stem}-cleaned-{report.stem[:6]}{key}.jsonl"
        given = report.with_suffix(".clean.yaml")
        recipe.save(given)
        done = subprocess.run(
            [sys.executable, "-m", "studio.training.clean", str(given), str(target), *without],
            capture_output=True,
            text=True,
            cwd=ASSETS.parent,
        )
        try:
            said = json.loads(done.stdout.splitlines()[-1])
        except (IndexError, ValueError) as error:
            raise StudioError("The cleaned copy could not be made.", done.stderr.strip()[-300:]) from error
        if "error" in said:
            raise StudioError(*said["error"])
        download = self.downloads / target.name
        try:
            download.unlink(missing_ok=True)
            shutil.copyfile(target, download)
        except OSError as error:
            raise StudioError(
                f"The cleaned copy is in {target}, but there is no room to hand it out.", "Free some disk space."
            ) from error
        return target, download, f"{said['kept']:,} rows are kept and {said['left_out']:,} left out, in {target}."

    def evaluate(self, run: Run, suites: list[str]) -> None:
        """Start a run's evaluation in a process of its own, unless it is going on.

        Raises:
            StudioError: another run is being evaluated.
        """
        with self._lock:
            state = report_state(run)[1]  # on the disk, so that a restarted studio knows it too
            if state and "error" not in state:
                return
            if self._evaluation and self._evaluation.poll() is None:
                raise StudioError("Another run is being evaluated.", "Wait until it is done, or cancel it.")
            command = [sys.executable, "app.py", "report", run.id]
            command += [part for suite in suites for part in ("--suite", suite)]
            with (run.folder / "report.log").open("wb") as log:
                self._evaluation = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ASSETS.parent
                )
            Told(run, self._evaluation.pid)

    # what the panel says

    def survey(self, recipe: Recipe) -> Survey | None:
        """What one pass over the dataset tells; None if it would take long (a Hub dataset, a large file).

        Raises:
            StudioError: the dataset cannot be read.
        """
        data = recipe.data
        files = self._files(data)
        if files is None or sum(size for _, size, _ in files) > _COUNTED_BYTES:
            return None
        settings = data.model_dump_json(exclude={"max_length", "train_on", "chat_template", "holdout", "invalid_rows"})
        key = (str(files), settings, recipe.model.task)
        if key not in self._surveys:
            try:
                self._surveys[key] = self.viewer.survey(recipe)
            except StudioError as error:
                self._surveys[key] = error
        known = self._surveys[key]
        if isinstance(known, StudioError):
            raise known
        return known

    @staticmethod
    def _files(data: DataSpec) -> list[tuple[str, int, int]] | None:
        """The files of a dataset as ``identity`` has them; None if some of it is on the Hub."""
        paths = [locate(spec, spec.split) for spec in parts(data)]
        return None if None in paths else [file for path in paths for file in identity(path)]

    def count(self, recipe: Recipe) -> Count | None:
        """How far the rows of a large local dataset have been counted in the background; None if they are not.

        Raises:
            StudioError: there is no such dataset.
        """
        data = recipe.data
        files = self._files(data)
        if files is None or sum(size for _, size, _ in files) <= _COUNTED_BYTES:
            return None
        if data.mix or data.skip_rows or data.max_rows or not countable(locate(data, data.split)):
            return None
        key = str(files)
        with self._lock:
            if key not in self._counts:
                self._counts[key] = Count()
                source = locate(data, data.split)
                threading.Thread(target=self._counts[key].run, args=(source,), daemon=True).start()
            return self._counts[key]

    def invalid(self, recipe: Recipe, seen: Survey | None) -> StudioError | None:
        """What asks whether rows that cannot be trained on are to be dropped, if it has not been answered yet."""
        if recipe.data.invalid_rows != "ask":
            return None
        if seen and seen.invalid:
            return ask_to_drop(seen.invalid, seen.first)
        try:
            report, _ = check_state(recipe)
        except StudioError:  # the model is not here, and the panel says so
            return None
        refused = next((f for f in report.findings if f.kind in INVALID), None) if report else None
        if refused is None:
            return None
        row, reason = refused.rows[0]
        return ask_to_drop({reason.rstrip("."): refused.count}, {reason.rstrip("."): f"row {row:,}"})

    def glance(self, recipe: Recipe) -> Glance:
        """The side panel: what it says, whether the recipe can be launched, and what else it shows."""
        problems = list(recipe.problems())
        seen = counted = None
        if not any(p.field and p.field.startswith("data") for p in problems):
            try:
                seen, counted = self.survey(recipe), self.count(recipe)
            except StudioError as error:
                problems.append(error)
        asked = self.invalid(recipe, seen) if not problems else None
        folder = self._folder(recipe, problems)
        rows = "Rows are counted at the launch."
        if seen:
            rows = f"{seen.rows:,} rows"
        elif counted:
            rows = counted.said()
        lines = [
            ("Model", _short(recipe.model.id), "" if folder else "Fetched at the launch, once."),
            ("Data", _short(recipe.data.source), rows),
            ("Method", _method_line(recipe), ""),
        ]
        lines += self._cost(recipe, folder, seen, seen.rows if seen else counted.rows if counted else None)
        html = views.glance(lines, [*problems, *([asked] if asked else [])])
        return Glance(html, not problems and not asked, asked is not None, bool(counted and counted.going))

    @staticmethod
    def _folder(recipe: Recipe, problems: list[StudioError]) -> Path | None:
        try:
            return store.local_folder(recipe.model)
        except StudioError as error:
            problems.append(error)
            return None

    def _cost(
        self, recipe: Recipe, folder: Path | None, seen: Survey | None, rows: int | None
    ) -> list[tuple[str, str, str]]:
        """Trainable parameters, memory and steps, as far as they are known."""
        from studio.training.steps import planned_steps

        lines = []
        numbers = self.numbers(recipe, folder, seen)
        if numbers is not None:
            share = numbers.trainable_parameters / max(1, numbers.total_parameters)
            lines.append(("Trained", f"{views.number(numbers.trainable_parameters)} parameters", f"{share:.2%} of all"))
            machine = self.machine
            total, room = numbers.memory_bytes["total"], machine["total_bytes"]
            fits = "fits" if total < room else "more than there is"
            lines.append(
                ("Memory", f"about {views.size(total)}", f"of {views.size(room)} on {machine['device']}: {fits}")
            )
            lines.append(_disk_line(numbers.disk_bytes))
        if rows and recipe.train.packing:
            lines.append(("Steps", "known at the launch", "Rows are packed when they are encoded."))
        elif rows:
            data = recipe.data
            shared = not (data.holdout_rows or data.holdout_column or data.holdout_source)
            training = max(1, rows - (int(rows * data.holdout) if shared else min(data.holdout_rows, rows - 1)))
            steps = planned_steps(training, recipe.train)
            lines.append(("Steps", f"about {steps:,}", self._time_line(recipe, steps)))
        return lines

    def numbers(self, recipe: Recipe, folder: Path | None, seen: Survey | None) -> Estimate | None:
        """The estimate for a recipe, from the model's config.json alone; None if that is not here."""
        if folder is None or recipe.problems():
            return None
        length = seen.longest_tokens(recipe.data.max_length) if seen else None
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            return estimate(recipe, config, device=self.device, folder=folder, length=length)
        except (StudioError, OSError, ValueError):  # the launch says what is wrong with the model
            return None

    def largest(self, recipe: Recipe, folder: Path | None, seen: Survey | None) -> dict[str, int | None]:
        """The largest batch and the longest rows that would fit this machine; empty if that cannot be told."""
        if folder is None or recipe.problems():
            return {}
        length = seen.longest_tokens(recipe.data.max_length) if seen else None
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            room = self.machine["total_bytes"]
            return largest(recipe, config, room, device=self.device, folder=folder, length=length)
        except (StudioError, OSError, ValueError):  # as above
            return {}

    def _time_line(self, recipe: Recipe, steps: int) -> str:
        """The time that these steps would take at the pace of the last run with the same model, data and method."""
        for run, _ in self.index.look(2.0)[:20]:
            earlier = run.recipe
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
            view = self.feed.view(run)
            if view.started and view.step > view.first_step and view.first_step_time:
                pace = (view.last_time - view.first_step_time) / (view.step - view.first_step)
                return f"about {views.duration(pace * steps)}, as in {run.id}"
        return "The time is known after the first steps."


def _disk_line(disk_bytes: dict[str, int]) -> tuple[str, str, str]:
    free = shutil.disk_usage(Workspace.current().runs).free
    fits = "fits" if disk_bytes["total"] < free else "more than is free"
    return "Disk", f"up to {views.size(disk_bytes['total'])}", f"of {views.size(free)} free: {fits}"


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
