"""All runs of the workspace with their statuses, kept so that looking again costs next to nothing.

A run is read again only if its folder or its event file has changed, or if its status can change by itself.
"""

from __future__ import annotations

import os
import threading
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.runs.damage import is_run
from studio.runs.run import Run
from studio.workspace import Workspace

_BY_ITSELF = ("running",)  # a worker may end without writing anything
_LONGEST_REASON = 300  # characters
_SETTLED_SECONDS = 2.0  # a file that changed this short a time ago may change again with the same time stamp


@dataclass
class Entry:
    """One run as it was when it was last read; ``summary`` is made when somebody asks for it."""

    status: str
    name: str  # as a person calls it
    stamp: tuple[int, ...]
    settled: bool
    damage: str = ""  # what of it cannot be read
    summary: dict[str, Any] | None = field(default=None)


class RunIndex:
    """The runs of the current workspace. One is shared by the launcher and all pages; any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._root: Path | None = None
        self._entries: dict[str, Entry] = {}
        self._looked = float("-inf")
        self._version = 0

    def statuses(self, max_age: float = 0.0) -> dict[str, str]:
        """Run ids, newest first, with their statuses.

        Args:
            max_age: seconds that an earlier look may be old; 0 looks now.
        """
        with self._lock:
            self._refresh(max_age)
            return {id: entry.status for id, entry in self._entries.items()}

    def names(self, max_age: float = 0.0) -> dict[str, str]:
        """The names that people gave to runs, by id."""
        with self._lock:
            self._refresh(max_age)
            return {id: entry.name for id, entry in self._entries.items() if entry.name}

    def damages(self, max_age: float = 0.0) -> dict[str, str]:
        """What cannot be read of the runs that are damaged, by id."""
        with self._lock:
            self._refresh(max_age)
            return {id: entry.damage for id, entry in self._entries.items() if entry.damage}

    def look(self, max_age: float = 0.0) -> list[tuple[Run, str]]:
        """All runs, newest first, each with its status."""
        with self._lock:
            self._refresh(max_age)
            return [(Run(self._root / id), entry.status) for id, entry in self._entries.items()]

    def version(self, max_age: float = 0.0) -> str:
        """A text that changes when a run comes, goes, or changes status, name or damage; the same in every process."""
        with self._lock:
            self._refresh(max_age)
            return f"{self._version:08x}"

    def summaries(self) -> list[dict[str, Any]]:
        """The runs as ``python app.py runs --json`` lists them, newest first."""
        with self._lock:
            self._refresh(0.0)
            for id, entry in self._entries.items():
                if entry.summary is None or entry.summary["status"] != entry.status or not entry.settled:
                    entry.summary = _summary(Run(self._root / id), entry)
            return [dict(entry.summary) for entry in self._entries.values()]

    def _refresh(self, max_age: float) -> None:
        root = Workspace.current().runs
        if root == self._root and time.monotonic() - self._looked <= max_age:
            return
        if root != self._root:
            self._root, self._entries = root, {}
        entries = {}
        for id in sorted((name for name in os.listdir(root) if not name.startswith(".")), reverse=True):
            entry = self._read(root / id, self._entries.get(id))
            if entry is not None:
                entries[id] = entry
        self._entries = entries
        self._looked = time.monotonic()
        told = [(id, entry.status, entry.name, entry.damage) for id, entry in entries.items()]
        self._version = zlib.crc32(repr(told).encode())

    def _read(self, folder: Path, known: Entry | None) -> Entry | None:
        """The run in a folder; ``known`` itself if nothing has changed; None if the folder is no run's."""
        now = time.time_ns()
        if known is None and not is_run(folder):
            return None
        try:
            stamp = _stamp(folder)
        except FileNotFoundError:  # gone
            return None
        if known and known.settled and known.stamp == stamp and known.status not in _BY_ITSELF:
            return known
        unchanged = known is not None and known.settled and known.stamp == stamp
        settled = now - max(stamp) > _SETTLED_SECONDS * 1e9
        try:
            run = Run(folder)
            status = run.status
            # a claimed run without a worker is waited for, and given up after a while
            waits = status == "queued" and run.claimed
            damage = known.damage if unchanged else run.damage
            name = run.label.name
        except Exception as error:  # noqa: BLE001  whatever is wrong with one run, the others are listed
            return Entry("failed", "", stamp, settled, f"{type(error).__name__}: {error}"[:_LONGEST_REASON])
        return Entry(status, name, stamp, settled and not waits, damage, known.summary if unchanged else None)


def _summary(run: Run, entry: Entry) -> dict[str, Any]:
    """The summary of a run, of which not more may be readable than its id."""
    try:
        return run.summary()
    except Exception as error:  # noqa: BLE001  whatever is wrong with one run, the others are listed
        damage = entry.damage or f"{type(error).__name__}: {error}"[:_LONGEST_REASON]
        empty = {"recipe": "recipe", "step": 0, "max_steps": 0, "loss": None, "started": None, "ended": None}
        return {"id": run.id, "status": entry.status, **empty, "damaged": damage}


def _stamp(folder: Path) -> tuple[int, ...]:
    """What changes with a run: its folder's time (``claim``, ``stop`` and ``process.json`` come and go by name), and
    the time and length of its events and of its recipe."""
    try:
        changed = os.stat(folder).st_mtime_ns
    except OSError:  # a broken link, or a link to itself, if it is still there
        changed = os.lstat(folder).st_mtime_ns
    return changed, *_file_stamp(folder / "events.jsonl"), *_file_stamp(folder / "recipe.yaml")


def _file_stamp(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return 0, -1
    return found.st_mtime_ns, found.st_size
