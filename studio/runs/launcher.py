"""The launcher: owns the queue, starts each worker as a session of its own on a device of its own, and follows it.

A worker outlives the studio: it is a process of its own session with its output in ``log.txt``, and a restarted studio
finds it again through ``process.json``. The training code is one function of the run folder and does not know which
launcher called it.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
import traceback
from collections.abc import Callable

from studio.errors import StudioError
from studio.jobs import process
from studio.recipe import Recipe, Resolved
from studio.runs.devices import chosen, visible_devices
from studio.runs.events import EventLog
from studio.runs.index import RunIndex
from studio.runs.label import Label
from studio.runs.queue import PLACE, place_of
from studio.runs.run import Run
from studio.runs.worker_server import WorkerServer
from studio.runs.worker_start import ForkedWorker, start_worker
from studio.workspace import Workspace

_SAME_LAUNCH_SECONDS = 3.0  # the same recipe launched again within this time is one launch (a double click)


class Launcher:
    """Starts queued runs from a background thread, one at a time on each device.

    Make one, ``start`` it, and pass it in.

    Args:
        server: has everything imported, so that a worker forked from it starts quickly; None for fresh processes.
        devices: GPUs as ``CUDA_VISIBLE_DEVICES`` names them, and ``cpu``; None looks for them.
    """

    def __init__(
        self,
        poll_seconds: float = 1.0,
        server: WorkerServer | None = None,
        devices: tuple[str, ...] | None = None,
    ):
        self.index = RunIndex()
        self.before_start: Callable[[Run], None] | None = None  # told of each run just before its worker starts
        self._server = server
        self._poll_seconds = poll_seconds
        self._devices = devices
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._workers: dict[str, subprocess.Popen | ForkedWorker] = {}
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
        if self._server:
            self._server.close()

    def warm(self) -> None:
        """Somebody may launch soon: have the imports ready."""
        if self._server and not self._closed.is_set():
            self._server.warm()

    def submit(self, recipe: Recipe, label: Label | None = None, repeated: Resolved | None = None) -> Run:
        """Queue a run. The same recipe submitted twice within three seconds is one run.

        Args:
            label: what the run is to be called, and what it was made from.
            repeated: see :meth:`Run.create`.

        Raises:
            StudioErrors: the recipe has problems.
        """
        text = recipe.to_yaml()
        with self._lock:
            now = time.monotonic()
            if self._last and self._last[1] == text and now - self._last[0] < _SAME_LAUNCH_SECONDS:
                return self._last[2]
            run = Run.create(recipe, label, repeated)
            self._last = (now, text, run)
        self._wake.set()
        return run

    def _loop(self) -> None:
        while not self._closed.is_set():
            self._wake.wait(self._poll_seconds)
            self._wake.clear()
            try:
                self.tick()
            except Exception:  # noqa: BLE001  the queue goes on; what happened is in the studio's log
                traceback.print_exc()

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
                if worker.returncode is not None:
                    process.note_exit(Workspace.current().run(id) / "process.json", worker.pid, worker.returncode)
                del self._workers[id]
        found = self.index.look()
        runs, statuses = [run for run, _ in found], {run.id: status for run, status in found}
        damaged = self.index.damages(self._poll_seconds)
        for id in damaged:
            if statuses.get(id) == "queued":
                _fail(Run(Workspace.current().run(id)))
        queued = [run for run in runs if statuses[run.id] == "queued" and run.id not in damaged]
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
            if not free:
                return
            devices = chosen(run.recipe, [name for name in self.devices if name in free], len(self.devices) - 1)
            if devices is None:
                continue
            if not run.claim():
                return  # another launcher is faster, and has not said yet on which device
            (run.folder / PLACE).unlink(missing_ok=True)
            if self.before_start:
                self.before_start(run)
            try:
                self._workers[run.id] = start_worker(run, self._server, devices if len(self.devices) > 1 else None)
            except StudioError:
                continue  # the run says so itself: it has failed
            free -= set(devices)

    def _occupied(self, run: Run) -> tuple[str, ...] | list[str]:
        """The devices of a running run; one that was started elsewhere may be on any of them."""
        worker = process.read(run.folder / "process.json") or {}
        return worker.get("devices") or self.devices


def _fail(run: Run) -> None:
    """Let a damaged queued run fail with the reason; where nothing can be written, it is listed as damaged only."""
    with contextlib.suppress(OSError):
        if run.claim():
            fix = f"Restore the file in {run.folder} from a copy, or delete the run."
            what = f"The run is damaged: {run.damage}"
            EventLog(run.events_path).write("failed", step=0, what=what, fix=fix, traceback="", code="run_damaged")
