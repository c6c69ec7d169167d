"""The launcher: owns the queue, starts each worker as a session of its own, and follows it.

A worker outlives the studio: it is a process of its own session with its output in ``log.txt``, and a restarted studio
finds it again through ``process.json``. The training code is one function of the run folder and does not know which
launcher called it.
"""

from __future__ import annotations

import subprocess
import threading
import time

from studio.errors import StudioError
from studio.recipe import Recipe
from studio.runs.events import EventLog
from studio.runs.run import Run, list_runs
from studio.runs.server import WorkerServer
from studio.runs.start import ForkedWorker, start_worker

_SAME_LAUNCH_SECONDS = 3.0  # the same recipe launched again within this time is one launch (a double click)


class Launcher:
    """Starts queued runs one after another from a background thread. Make one, ``start`` it, and pass it in.

    Args:
        server: has everything imported, so that a worker forked from it starts quickly; None for fresh processes.
    """

    def __init__(self, poll_seconds: float = 1.0, server: WorkerServer | None = None):
        self._server = server
        self._poll_seconds = poll_seconds
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

    def submit(self, recipe: Recipe) -> Run:
        """Queue a run. The same recipe submitted twice within three seconds is one run.

        Raises:
            StudioErrors: the recipe has problems.
        """
        text = recipe.to_yaml()
        with self._lock:
            now = time.monotonic()
            if self._last and self._last[1] == text and now - self._last[0] < _SAME_LAUNCH_SECONDS:
                return self._last[2]
            run = Run.create(recipe)
            self._last = (now, text, run)
        self._wake.set()
        return run

    def _loop(self) -> None:
        while not self._closed.is_set():
            self._wake.wait(self._poll_seconds)
            self._wake.clear()
            self.tick()

    def tick(self) -> None:
        """One look at the queue: reap workers that ended, and start the oldest queued run if none is running."""
        for id, worker in list(self._workers.items()):
            if worker.poll() is not None:
                del self._workers[id]
        runs = list_runs()
        statuses = {run.id: run.status for run in runs}
        for run in reversed(runs):
            if statuses[run.id] == "queued" and run.stopping and run.claim():
                EventLog(run.events_path).write("stopped", step=0, what="Stopped before it started.")
                statuses[run.id] = "stopped"
        if self._closed.is_set() or "running" in statuses.values():
            return
        queued = [run for run in reversed(runs) if statuses[run.id] == "queued"]
        if any(run.claimed for run in queued):
            return  # another launcher is about to start it
        for run in queued:
            if run.claim():
                try:
                    self._workers[run.id] = start_worker(run, self._server)
                except StudioError:
                    continue  # the run says so itself: it has failed
                return
