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

from studio.runs.run import Run
from studio.workspace import Workspace

_BY_ITSELF = ("running",)  # a worker may end without writing anything
_SETTLED_SECONDS = 2.0  # a file that changed this short a time ago may change again with the same time stamp


@dataclass
class Entry:
    """One run as it was when it was last read; ``summary`` is made when somebody asks for it."""

    status: str
    name: str  # as a person calls it
    stamp: tuple[int, ...]
    settled: bool
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

    def look(self, max_age: float = 0.0) -> list[tuple[Run, str]]:
        """All runs, newest first, each with its status."""
        with self._lock:
            self._refresh(max_age)
            return [(Run(self._root / id), entry.status) for id, entry in self._entries.items()]

    def version(self, max_age: float = 0.0) -> str:
        """A text that changes when a run comes, goes, or changes status or name; the same in every process."""
        with self._lock:
            self._refresh(max_age)
            return f"{self._version:08x}"

    def summaries(self) -> list[dict[str, Any]]:
        """The runs as ``python app.py runs --json`` lists them, newest first."""
        with self._lock:
            self._refresh(0.0)
            for id, entry in self._entries.items():
                if entry.summary is None or entry.summary["status"] != entry.status or not entry.settled:
                    entry.summary = Run(self._root / id).summary()
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
        self._version = zlib.crc32(repr([(id, entry.status, entry.name) for id, entry in entries.items()]).encode())

    def _read(self, folder: Path, known: Entry | None) -> Entry | None:
        """The run in a folder; ``known`` itself if nothing has changed; None if the folder is no run's."""
        now = time.time_ns()
        try:
            stamp = _stamp(folder)
        except OSError:  # gone, or a file among the folders
            return None
        if known and known.settled and known.stamp == stamp and known.status not in _BY_ITSELF:
            return known
        if known is None and not (folder / "recipe.yaml").exists():
            return None
        run = Run(folder)
        settled = now - max(stamp[0], stamp[1]) > _SETTLED_SECONDS * 1e9
        status = run.status
        # a claimed run without a worker is waited for, and given up after a while
        waits = status == "queued" and run.claimed
        unchanged = known is not None and known.settled and known.stamp == stamp
        return Entry(status, run.label.name, stamp, settled and not waits, known.summary if unchanged else None)


def _stamp(folder: Path) -> tuple[int, ...]:
    """What changes with a run: its folder's time (``claim``, ``stop`` and ``process.json`` come and go by name), and
    the time and length of its events."""
    changed = os.stat(folder).st_mtime_ns
    try:
        events = os.stat(folder / "events.jsonl")
    except FileNotFoundError:
        return changed, 0, -1
    return changed, events.st_mtime_ns, events.st_size
