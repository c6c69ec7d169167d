"""Follows the event files of runs for everybody who looks: each file is read once, from where the last look stopped.

A short rest is folded at once. A long one (a run of a million steps, seen for the first time) is folded by a thread in
portions, and whoever looks in the meantime gets what is there so far and how far it is.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from studio.runs import curve_cache
from studio.runs.events import read_events, read_portions
from studio.runs.run import Run
from studio.runs.snapshot import RunSnapshot

_AT_ONCE_BYTES = 1 << 20  # folded while the caller waits: some 10 ms
_SAVED_BYTES = 4 << 20  # of events that are new since the sidecar was written make a new one worth while
_SAVED_SHARE = 0.1  # and this share of all: so a long run is written down a few times, however long it gets
_MEMORY_BYTES = 150_000_000  # of folded runs; the ones not looked at for longest go first


@dataclass(frozen=True)
class RunMetrics:
    """A run at one moment. The arrays never change; ``RunSnapshot`` is for its single numbers.

    Attributes:
        points: columns of the ``step`` events; ``evals`` those of the ``eval`` events.
        generation: changes when the past has changed: a file replaced, steps done again.
        size: bytes of the event file that have been read.
        reading: bytes read and bytes to read in all while a long file is read, else None.
    """

    view: RunSnapshot
    points: dict[str, np.ndarray]
    evals: dict[str, np.ndarray]
    generation: str
    size: int
    reading: tuple[int, int] | None


class Reader:
    """One run's events, read on and folded. All methods may be called from any thread."""

    def __init__(self, run: Run):
        self.run_id = run.id
        self._folder, self._path = run.folder, run.events_path
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._begin(*curve_cache.load(run.folder))

    def _begin(self, view: RunSnapshot, offset: int) -> None:
        self.view, self.offset, self._saved, self._total = view, offset, offset, offset
        self._tried = -1  # the size at which a thread read all that there was: the rest is an unfinished line

    @property
    def nbytes(self) -> int:
        return self.view.points.nbytes + self.view.evals.nbytes

    def look(self) -> RunMetrics:
        """What is known now, brought up to date with the file unless that takes long."""
        with self._lock:
            size = file_size(self._path)
            if size < self.offset:
                self._begin(RunSnapshot(), 0)  # the file was replaced
            if self._thread is None and size > self.offset and size != self._tried:
                self._total = size
                if size - self.offset <= _AT_ONCE_BYTES:
                    events, self.offset = read_events(self._path, self.offset)
                    self.view.add(events)
                else:
                    self._thread = threading.Thread(target=self._read_on, name=f"read {self.run_id}", daemon=True)
                    self._thread.start()
            return self._now()

    def wait(self) -> RunMetrics:
        """As :meth:`look`, when all that was written before the call has been read."""
        look = self.look()
        while look.reading:
            thread = self._thread
            if thread:
                thread.join()
            look = self.look()
        return look

    def save(self) -> None:
        """Write the sidecar if enough is new."""
        with self._lock:
            share = 0 if self.view.ended else _SAVED_SHARE * self.offset
            if self._thread is None and self.offset - self._saved >= max(_SAVED_BYTES, share):
                self._saved = self.offset
                curve_cache.save(self._folder, self.view, self.offset)

    def _now(self) -> RunMetrics:
        view = self.view
        return RunMetrics(
            view=view,
            points=view.points.columns(),
            evals=view.evals.columns(),
            generation=f"{view.first_time}.{view.points.redone}.{view.evals.redone}",
            size=self.offset,
            reading=(self.offset, self._total) if self._thread else None,
        )

    def _read_on(self) -> None:
        try:
            for events, offset in read_portions(self._path, self.offset):
                with self._lock:
                    self.view.add(events)
                    self.offset = offset
        finally:
            with self._lock:
                self._thread = None
                self._tried = self._total
        self.save()


class Feed:
    """The readers of all runs that somebody looks at, shared by all browsers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers: dict[Path, Reader] = {}  # the one looked at last stands last

    def reader(self, run: Run) -> Reader:
        """The run's reader. It is made while others wait: two readers would read a long file twice."""
        with self._lock:
            reader = self._readers.pop(run.folder, None) or Reader(run)
            self._readers[run.folder] = reader
            total = sum(r.nbytes for r in self._readers.values())
            for folder, other in list(self._readers.items())[:-1]:
                if total <= _MEMORY_BYTES:
                    break
                total -= other.nbytes
                del self._readers[folder]
            return reader

    def look(self, run: Run) -> RunMetrics:
        """The run as it is now."""
        reader = self.reader(run)
        look = reader.look()
        reader.save()
        return look

    def view(self, run: Run) -> RunSnapshot:
        """The run's single numbers, brought up to date with its file."""
        return self.look(run).view


def fold(run: Run) -> None:
    """Leave a long run's sidecar beside its events, so that nobody waits when it is opened for the first time."""
    if file_size(run.events_path) >= _SAVED_BYTES:
        reader = Reader(run)
        reader.wait()
        reader.save()


def file_size(path: Path) -> int:
    """Bytes; 0 if there is no file that can be looked at."""
    with contextlib.suppress(OSError):  # a link to itself is as good as none
        return path.stat().st_size
    return 0
