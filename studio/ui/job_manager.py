"""What the page lets other processes do beside runs: a download, the check of a dataset, a cleaned copy, a report."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from studio.errors import StudioError
from studio.evaluation.report import Told, report_state
from studio.jobs.environment import HUB_TOKENS, without_secrets
from studio.models import store
from studio.recipe import Recipe
from studio.runs import Run
from studio.runs.secrets import needed_secrets
from studio.training.check import check_state, report_path, say_progress
from studio.workspace import ASSETS, Workspace, safe_name

_CHECKS = 2  # of whole datasets at a time; each takes every core


class JobManager:
    """One for the whole studio.

    Args:
        downloads: the folder of files that the page may hand out.
    """

    def __init__(self, downloads: Path):
        self._downloads = downloads
        self._lock = threading.Lock()
        self._fetches: dict[str, subprocess.Popen] = {}
        self._checks: dict[Path, subprocess.Popen] = {}
        self._evaluation: subprocess.Popen | None = None

    def fetch(self, recipe: Recipe, *, quiet: bool = True) -> None:
        """Start getting the model in a process of its own, unless it is here or on its way."""
        id = recipe.model.id
        running = self._fetches.get(id)
        if store.is_local(recipe.model) or (running and running.poll() is None):
            return
        command = [sys.executable, "-m", "studio.models.fetch", id]
        if recipe.model.revision:
            command += ["--revision", recipe.model.revision]
        if recipe.model.trust_remote_code:
            command.append("--trust-remote-code")
        output = subprocess.DEVNULL if quiet else None
        self._fetches[id] = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
            cwd=ASSETS.parent,
            env=without_secrets(HUB_TOKENS),
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
                env=_environment(recipe),
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
            encoding="utf-8",
            errors="replace",
            cwd=ASSETS.parent,
            env=_environment(recipe),
        )
        try:
            said = json.loads(done.stdout.splitlines()[-1])
        except (IndexError, ValueError) as error:
            raise StudioError("The cleaned copy could not be made.", done.stderr.strip()[-300:]) from error
        if "error" in said:
            raise StudioError(*said["error"])
        download = self._downloads / target.name
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
            command += [part for suite in suites for part in ("--suite", suite)] or ["--no-suites"]
            with (run.folder / "report.log").open("wb") as log:
                self._evaluation = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=ASSETS.parent,
                    env=without_secrets(needed_secrets(run.recipe, reports=False)),
                )
            Told(run, self._evaluation.pid)


def _environment(recipe: Recipe) -> dict[str, str]:
    """That of a process which reads the rows of a recipe, with the model here."""
    return without_secrets(needed_secrets(recipe, model_is_here=True, reports=False))
