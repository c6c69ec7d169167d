"""A worker comes into being: forked from a process that has everything imported, or as a fresh process."""

from __future__ import annotations

import subprocess
import sys
import time

from studio.errors import StudioError
from studio.jobs import process
from studio.runs.devices import environment as device_environment
from studio.runs.events import EventLog
from studio.runs.run import Run
from studio.runs.secrets import needed_secrets
from studio.runs.worker_server import WorkerServer, worker_environment

_LOOK_SECONDS = 0.05  # between two looks at a worker that is not our child


class ForkedWorker:
    """A worker that is not our child; has what is used of ``subprocess.Popen``."""

    returncode = None  # not known

    def __init__(self, run: Run, pid: int):
        self.pid = pid
        self._description = process.read(run.folder / "process.json")

    def poll(self) -> int | None:
        """None while it is alive. How it ended is in the run's events."""
        return None if process.find(self._description) else 0

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it is still alive after ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(["worker"], timeout)
            time.sleep(_LOOK_SECONDS)
        return 0


def start_worker(
    run: Run, server: WorkerServer | None = None, devices: list[str] | None = None
) -> subprocess.Popen | ForkedWorker:
    """Start the worker of a claimed run in a session of its own.

    Args:
        server: a process to fork it from, if that is possible for this run.
        devices: those it may use, for ``CUDA_VISIBLE_DEVICES``; None leaves all that this process may use.

    Raises:
        StudioError: the process cannot be started; the run has then failed.
    """
    recipe = run.recipe
    environment = worker_environment(needed_secrets(recipe))
    environment |= device_environment(devices) if devices is not None else {}
    if server and not recipe.model.trust_remote_code and recipe.train.num_processes == 1:
        pid = server.fork(run, environment)
        if pid is not None:
            _note_devices(run, devices)
            return ForkedWorker(run, pid)
    command = [sys.executable, "-u", "-m", "studio.training", str(run.folder)]
    try:
        with run.log_path.open("ab") as log:
            worker = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment
            )
    except OSError as error:
        problem = StudioError(f"The worker cannot be started: {error}.", "Check memory and disk space, then retry.")
        EventLog(run.events_path).write("failed", what=problem.what, fix=problem.fix, traceback="")
        raise problem from error
    process.write(run.folder / "process.json", process.describe(worker.pid, command))
    _note_devices(run, devices)
    return worker


def _note_devices(run: Run, devices: list[str] | None) -> None:
    """Add to ``process.json`` on which devices the worker is."""
    path = run.folder / "process.json"
    description = process.read(path)
    if devices is not None and description:
        process.write(path, {**description, "devices": devices})
