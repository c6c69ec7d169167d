"""The launcher: owns the queue, starts each worker as a session of its own on a device of its own, and follows it.

A worker outlives the studio: it is a process of its own session with its output in ``log.txt``, and a restarted studio
finds it again through ``process.json``. The training code is one function of the run folder and does not know which
launcher called it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from studio.errors import StudioError
from studio.recipe import Recipe
from studio.runs import process
from studio.runs.devices import chosen, visible_devices
from studio.runs.devices import environment as device_environment
from studio.runs.events import EventLog
from studio.runs.index import RunIndex
from studio.runs.label import Label
from studio.runs.queue import PLACE, place_of
from studio.runs.run import Run
from studio.workspace import Workspace

_ROOT = Path(__file__).resolve().parent.parent.parent
_SAME_LAUNCH_SECONDS = 3.0  # the same recipe launched again within this time is one launch (a double click)


def start_worker(run: Run, devices: list[str] | None = None) -> subprocess.Popen:
    """Start the worker of a claimed run in a session of its own.

    Args:
        devices: those it may use, for ``CUDA_VISIBLE_DEVICES``; None leaves all that this process may use.

    Raises:
        StudioError: the process cannot be started; the run has then failed.
    """
    command = [sys.executable, "-u", "-m", "studio.training", str(run.folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    if devices is not None:
        environment |= device_environment(devices)
    try:
        with run.log_path.open("ab") as log:
            worker = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment
            )
    except OSError as error:
        problem = StudioError(f"The worker cannot be started: {error}.", "Check memory and disk space, then retry.")
        EventLog(run.events_path).write("failed", what=problem.what, fix=problem.fix, traceback="")
        raise problem from error
    described = process.describe(worker.pid, command)
    process.write(run.folder / "process.json", described | ({"devices": devices} if devices is not None else {}))
    return worker


class Launcher:
    """Starts queued runs from a background thread, one at a time on each device.

    Make one, ``start`` it, and pass it in.

    Args:
        devices: GPUs as ``CUDA_VISIBLE_DEVICES`` names them, and ``cpu``; None looks for them.
    """

    def __init__(self, poll_seconds: float = 1.0, devices: tuple[str, ...] | None = None):
        self.index = RunIndex()
        self._poll_seconds = poll_seconds
        self._devices = devices
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._workers: dict[str, subprocess.Popen] = {}
        self._last: tuple[float, str, Run] | None = None
        self._thread = threading.Thread(target=self._loop, name="launcher", daemon=True)

    def start(self) -> Launcher:
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop launching. Workers that run go on."""
        self._closed.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def submit(self, recipe: Recipe, label: Label | None = None) -> Run:
        """Queue a run. The same recipe submitted twice within three seconds is one run.

        Args:
            label: what the run is to be called, and what it was made from.

        Raises:
            StudioErrors: the recipe has problems.
        """
        text = recipe.to_yaml()
        with self._lock:
            now = time.monotonic()
            if self._last and self._last[1] == text and now - self._last[0] < _SAME_LAUNCH_SECONDS:
                return self._last[2]
            run = Run.create(recipe, label)
            self._last = (now, text, run)
        self._wake.set()
        return run

    def _loop(self) -> None:
        while not self._closed.is_set():
            self._wake.wait(self._poll_seconds)
            self._wake.clear()
            self.tick()

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that runs are started on."""
        if self._devices is None:
            self._devices = visible_devices()
        return self._devices

    def tick(self) -> None:
        """One look at the queue: reap workers that ended, and start queued runs on the devices that are free."""
        for id, worker in list(self._workers.items()):
            if worker.poll() is not None:
                process.note_exit(Workspace.current().run(id) / "process.json", worker.pid, worker.returncode)
                del self._workers[id]
        found = self.index.look()
        runs, statuses = [run for run, _ in found], {run.id: status for run, status in found}
        queued = [run for run in runs if statuses[run.id] == "queued"]
        for run in queued:
            ending = run.ending
            if ending and run.claim():
                EventLog(run.events_path).write(ending, step=0, what=f"{ending.capitalize()} before it started.")
        if self._closed.is_set() or any(run.claimed and not run.ending for run in queued):
            return  # the second: another launcher is about to start one, and has not said on which device
        free = set(self.devices)
        for run in runs:
            if statuses[run.id] == "running":
                free -= set(self._occupied(run))
        for run in sorted((run for run in queued if not run.claimed), key=place_of):
            devices = chosen(run.recipe, [name for name in self.devices if name in free], len(self.devices) > 1)
            if devices is None:
                continue
            if not run.claim():
                return  # another launcher is faster, and has not said yet on which device
            (run.folder / PLACE).unlink(missing_ok=True)
            try:
                self._workers[run.id] = start_worker(run, devices if len(self.devices) > 1 else None)
            except StudioError:
                continue  # the run says so itself: it has failed
            free -= set(devices)

    def _occupied(self, run: Run) -> tuple[str, ...] | list[str]:
        """The devices of a running run; one that was started elsewhere may be on any of them."""
        worker = process.read(run.folder / "process.json") or {}
        return worker.get("devices") or self.devices
