"""Why a worker ended that has no last word: whether the system may have ended it for memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from studio.jobs import process
from studio.runs.events import read_events
from studio.runs.run import Run

KILLED = (-9, 137)  # SIGKILL, as Python and as a shell say it
NEAR = 0.85  # of the free main memory


@dataclass(frozen=True)
class Killed:
    """A worker that the system may have ended for memory.

    Attributes:
        memory_bytes: the most that it was seen to hold, of main memory.
        free_bytes: main memory that was free before it loaded the model.
        expected: its ``memory`` event, or what there is of one.
    """

    memory_bytes: int
    free_bytes: int
    expected: dict[str, Any]

    @property
    def what(self) -> str:
        held, free = f"{self.memory_bytes / 1e9:.1f} GB", f"{self.free_bytes / 1e9:.1f} GB"
        return (
            "The worker was ended from outside; the system may have ended it for memory: "
            f"it held {held}, and {free} were free before it loaded the model."
        )


def killed_for_memory(run: Run) -> Killed | None:
    """How an interrupted run may have run out of memory; None if nothing speaks for it.

    The kernel ends a process with SIGKILL when the machine, or the container's control group, has no memory left. The
    exit code is known where the studio that started the worker saw it end; otherwise it may have been that.
    """
    if run.status != "interrupted":
        return None
    worker = process.read(run.folder / "process.json") or {}
    if worker.get("exit_code") not in (None, *KILLED):
        return None
    events, _ = read_events(run.events_path)
    start = next((i for i in range(len(events) - 1, -1, -1) if "free_bytes" in events[i]), None)
    if start is None:
        return None
    expected, on_cpu = events[start], events[start].get("device") == "cpu"
    # a step on a GPU tells the GPU's memory
    told = [e["memory_bytes"] for e in events[start:] if e.get("memory_bytes") and (on_cpu or e["kind"] == "memory")]
    held = expected.get("held_bytes") or 0 if on_cpu else 0
    most = max(told, default=0)
    if not told and on_cpu and expected.get("estimated_memory_bytes"):  # it ended before the first look
        most = held + expected["estimated_memory_bytes"]
    if most - held < NEAR * expected["free_bytes"]:
        return None
    return Killed(most, expected["free_bytes"], expected)
