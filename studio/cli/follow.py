"""Start a run from a terminal and watch it to its end."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from studio.cli.terminal import Board
from studio.jobs import process
from studio.runs import Run, RunSnapshot, read_events
from studio.runs.worker_start import ForkedWorker, start_worker

LOOK_SECONDS = 0.2  # between two looks at a run
EXIT_SECONDS = 30.0  # a worker that has said its last word still has to leave
ALIVE = ("queued", "running")


def launch_and_follow(run: Run) -> str:
    """Start a queued run's worker, show on stderr what it does, and return the run's status.

    Ctrl-C asks the run to stop; a second one ends the watching, and the status is then ``running``.

    Raises:
        StudioError: the worker cannot be started.
    """
    offset = run.events_path.stat().st_size if run.events_path.exists() else 0
    # Another launcher (that of an open studio) may have been faster: then the run is only followed.
    worker = start_worker(run) if run.claim() else None
    with Board() as board, _interrupts() as interrupts:
        board.say(f"Run {run.id}")
        view = _follow(run, offset, board, interrupts)
        if worker and view.ended:
            _let_go(worker, board)
    status = run.status
    if worker and status == "interrupted":  # it is gone without a last word: how it ended may say why
        process.note_exit(run.folder / "process.json", worker.pid, worker.wait(timeout=EXIT_SECONDS))
    return status


def _follow(run: Run, offset: int, board: Board, interrupts: list[float]) -> RunSnapshot:
    """Show the events from byte ``offset`` on, until the run ends or is left to itself."""
    view, warned, asked_to_stop = RunSnapshot(), 0, False
    while True:
        alive = run.status in ALIVE  # asked before reading, so that the last events are not missed
        events, offset = read_events(run.events_path, offset)
        view.add(events)
        for event in events:
            if event["kind"] == "started" and event.get("resumed_from"):
                board.say(f"Going on from {event['resumed_from']}.")
        for warning in view.warnings[warned:]:
            board.say(f"Warning: {warning['what']} {warning.get('fix', '')}".rstrip(), style="yellow")
        warned = len(view.warnings)
        board.follow(view, time.time())
        if view.ended or not alive or len(interrupts) > 1:
            return view
        if interrupts and not asked_to_stop:
            asked_to_stop = True
            run.stop()
            board.say("Stopping at the end of this step, with a checkpoint. Ctrl-C again leaves the run to itself.")
        time.sleep(LOOK_SECONDS)


@contextmanager
def _interrupts() -> Iterator[list[float]]:
    """Ctrl-C does not interrupt here; the list gets the time of each."""
    pressed: list[float] = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(time.monotonic()))
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _let_go(worker: subprocess.Popen | ForkedWorker, board: Board) -> None:
    try:
        worker.wait(timeout=EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        board.say(f"The worker (process {worker.pid}) is slow to end.")
