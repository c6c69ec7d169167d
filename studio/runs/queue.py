"""The order in which queued runs are started: by their ids, which begin with the time, unless a person moved them."""

from __future__ import annotations

import os

from studio.errors import StudioError
from studio.runs.run import Run, list_runs
from studio.workspace import Workspace

STAMP = ".moved"
PLACE = "place"  # the file with a run's number in the queue; runs without one come behind those that have one


def place_of(run: Run) -> tuple[float, str]:
    """What the queue is sorted by."""
    try:
        return float((run.folder / PLACE).read_text(encoding="ascii")), run.id
    except (OSError, ValueError):
        return float("inf"), run.id


def waiting(runs: list[Run] | None = None) -> list[Run]:
    """The queued runs that no launcher has taken yet, in the order in which they start."""
    found = [run for run in (list_runs() if runs is None else runs) if not (run.claimed or run.ending)]
    return sorted((run for run in found if run.status == "queued"), key=place_of)


def move(run: Run, places: int) -> list[Run]:
    """Move a queued run by so many places, towards the front if negative; returns the new order.

    Raises:
        StudioError: the run is not waiting.
    """
    order = waiting()
    at = next((number for number, other in enumerate(order) if other.id == run.id), None)
    if at is None:
        raise StudioError(f"The run {run.id} is not waiting: it is {run.status}.", "Look at it on the Runs tab.")
    moved = order.pop(at)
    order.insert(max(0, at + places), moved)
    for number, other in enumerate(order):
        aside = other.folder / f".{PLACE}.{os.getpid()}.part"
        aside.write_text(str(number), encoding="ascii")
        aside.replace(other.folder / PLACE)
    (Workspace.current().runs / STAMP).touch()
    return order


def stamp() -> int:
    """Changes when a person has moved a run: when that was, in nanoseconds."""
    try:
        return (Workspace.current().runs / STAMP).stat().st_mtime_ns
    except FileNotFoundError:
        return 0
