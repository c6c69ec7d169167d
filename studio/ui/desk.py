"""What the tabs share: the launcher, the live feed, the inference engine, and what is known about the chosen recipe."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from studio.data.conversations import Survey, survey
from studio.data.files import identity
from studio.data.sources import locate
from studio.errors import StudioError
from studio.models import store
from studio.models.machine import machine_memory
from studio.models.memory import Estimate, estimate
from studio.recipe import Recipe, is_template_file
from studio.runs import Launcher, list_runs
from studio.training.check import check_state, report_path, say_progress
from studio.ui import views
from studio.ui.charts import Feed
from studio.workspace import ASSETS, Workspace

_COUNTED_BYTES = 64_000_000  # larger files are not counted for the panel; the worker counts them
DEFAULT_RECIPE = ASSETS.parent / "recipes" / "quickstart.yaml"


class Desk:
    """One object for the whole studio, passed to every tab. Loads no model and no torch until something needs them."""

    def __init__(self, launcher: Launcher):
        self.launcher = launcher
        self.feed = Feed()
        self.machine = machine_memory()
        self.stops: dict[str, threading.Event] = {}
        self.downloads = Path(tempfile.mkdtemp(prefix="sft-studio-"))  # Gradio hands out no file of the workspace
        self._engine: Any = None
        self._lock = threading.Lock()
        self._surveys: dict[tuple, Survey | StudioError] = {}
        self._tokenizers: dict[tuple, tuple[Any, list[str]]] = {}
        self._downloads: dict[str, subprocess.Popen] = {}
        self._checks: dict[Path, subprocess.Popen] = {}

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
            return self._engine

    def tokenizer(self, recipe: Recipe) -> tuple[Any, list[str]]:
        """The tokenizer as the worker prepares it, with the notes on what was added; None is never returned.

        Raises:
            StudioError: the model is not on this machine yet, or its tokenizer cannot be read.
        """
        folder = store.local_folder(recipe.model)
        if folder is None:
            raise StudioError(
                "The model is not on this machine yet, and its tokenizer is needed to show the rows.",
                "Get it in the Model tab; it is fetched once.",
            )
        template = recipe.data.chat_template
        stamp = Path(template).stat().st_mtime_ns if is_template_file(template) else 0
        key = (str(folder), template, stamp, recipe.model.trust_remote_code)
        with self._lock:
            if key not in self._tokenizers:
                from studio.models.chat import prepare_chat
                from studio.models.load import load_tokenizer

                tokenizer = load_tokenizer(folder, trust_remote_code=recipe.model.trust_remote_code)
                notes = list(prepare_chat(tokenizer, None, template))
                while len(self._tokenizers) >= 4:
                    self._tokenizers.pop(next(iter(self._tokenizers)))
                self._tokenizers[key] = (tokenizer, notes)
            return self._tokenizers[key]

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
        path = report_path(recipe)
        running = self._checks.get(path)
        if check_state(recipe)[0] or (running and running.poll() is None):
            return
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

    # what the panel says

    def survey(self, recipe: Recipe) -> Survey | None:
        """What one pass over the dataset tells; None if it would take long (a Hub dataset, a large file).

        Raises:
            StudioError: the dataset cannot be read.
        """
        data = recipe.data
        path = locate(data, data.split)
        if path is None:
            return None
        stamp = identity(path)
        if sum(size for _, size, _ in stamp) > _COUNTED_BYTES:
            return None
        settings = data.model_dump_json(include={"source", "format", "columns", "split", "max_rows", "system_prompt"})
        key = (str(stamp), settings)
        if key not in self._surveys:
            try:
                self._surveys[key] = survey(data)
            except StudioError as error:
                self._surveys[key] = error
        known = self._surveys[key]
        if isinstance(known, StudioError):
            raise known
        return known

    def glance(self, recipe: Recipe) -> tuple[str, bool]:
        """The side panel, and whether the recipe can be launched."""
        problems = list(recipe.problems())
        seen = None
        if not any(p.field and p.field.startswith("data") for p in problems):
            try:
                seen = self.survey(recipe)
            except StudioError as error:
                problems.append(error)
        folder = self._folder(recipe, problems)
        lines = [
            ("Model", _short(recipe.model.id), "" if folder else "Fetched at the launch, once."),
            (
                "Data",
                _short(recipe.data.source),
                f"{seen.rows:,} rows" if seen else "Rows are counted at the launch.",
            ),
            ("Method", _method_line(recipe), ""),
        ]
        lines += self._cost(recipe, folder, seen)
        return views.glance(lines, problems), not problems

    @staticmethod
    def _folder(recipe: Recipe, problems: list[StudioError]) -> Path | None:
        try:
            return store.local_folder(recipe.model)
        except StudioError as error:
            problems.append(error)
            return None

    def _cost(self, recipe: Recipe, folder: Path | None, seen: Survey | None) -> list[tuple[str, str, str]]:
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
        if seen:
            training = seen.rows - int(seen.rows * recipe.data.holdout)
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

    def _time_line(self, recipe: Recipe, steps: int) -> str:
        """The time that these steps would take at the pace of the last run with the same model, data and method."""
        for run in list_runs()[:20]:
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


def _short(text: str) -> str:
    return text if len(text) <= 60 else "…" + text[-58:]


def _method_line(recipe: Recipe) -> str:
    titles = {"none": "LoRA", "nf4": "QLoRA, 4 bits", "int8": "QLoRA, 8 bits"}
    if recipe.method.kind == "full":
        return "Full fine-tuning"
    return f"{titles[recipe.model.quantization]}, rank {recipe.method.r}"
