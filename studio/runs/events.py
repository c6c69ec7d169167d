"""``events.jsonl``: append-only, one JSON object a line, written by one process and read by any number."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from studio.runs.event_check import is_usable
from studio.runs.plain_file import append_plain, open_unlinked

TERMINAL = ("finished", "stopped", "failed", "paused")  # the worker ends behind each; after the last it goes on later
PORTION_BYTES = 1 << 19  # some 2,000 steps: a few milliseconds in which no other thread of Python gets on
LONGEST_LINE = 1 << 24  # bytes; a longer line is damage, and is not kept in memory
_READ_AT_ONCE = 1 << 22  # bytes of the file
_LAST_WINDOW = 1 << 26  # bytes from the end of a file in which a last event is looked for


class Events(list):
    """Events in their order; ``bad`` counts the lines that could not be used and were skipped."""

    bad = 0


class EventLog:
    """The writer. Each event is one write of one whole line, so a reader never meets two halves of different events."""

    def __init__(self, path: Path):
        self._file = append_plain(path)
        if _last_byte(path) not in (b"", b"\n"):
            self._file.write(b"\n")  # an earlier writer was cut off in the middle of a line

    def write(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Append an event of ``kind`` with its ``fields`` (plain JSON values); ``time`` is unix seconds.

        Numbers that are not finite are written as null, since JSON has no word for them.
        """
        event = {"time": round(time.time(), 3), "kind": kind, **fields}
        line = json.dumps(finite(event), ensure_ascii=False, separators=(",", ":"))
        self._file.write(line.encode("utf-8", "backslashreplace") + b"\n")
        if kind not in ("step", "progress"):
            os.fsync(self._file.fileno())
        return event

    def close(self) -> None:
        self._file.close()


def finite(value: Any) -> Any:
    """``value`` with None for every number that JSON has no word for (infinite, not a number)."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value


def read_events(path: Path, offset: int = 0) -> tuple[Events, int]:
    """Events from byte ``offset`` up to the last newline, and the offset to go on from.

    A line that is not a usable event (a crash in the middle of a write, a value of a wrong type) is skipped and
    counted.
    """
    found = Events()
    for events, after in read_portions(path, offset, _READ_AT_ONCE):
        found.extend(events)
        found.bad += events.bad
        offset = after
    return found, offset


def read_portions(path: Path, offset: int = 0, size: int | None = None) -> Iterator[tuple[Events, int]]:
    """As :func:`read_events`, in portions of some ``PORTION_BYTES``, each with the offset after it: for long files."""
    try:
        file = open_unlinked(path)
    except OSError:  # there is none, or none that can be read: then the run is listed as damaged
        return
    with file:
        file.seek(offset)
        rest, skipped = b"", 0
        while data := file.read(size or PORTION_BYTES):
            if skipped:  # in the middle of a line that is too long
                end = data.find(b"\n") + 1
                if not end:
                    skipped += len(data)
                    continue
                offset += skipped + end
                events, skipped, data = Events(), 0, data[end:]
                events.bad = 1
                yield events, offset
            data = rest + data
            end = data.rfind(b"\n") + 1
            rest = data[end:]
            if end:
                offset += end
                yield parse_lines(data[:end]), offset
            if len(rest) > LONGEST_LINE:
                rest, skipped = b"", len(rest)
        if skipped:  # or every reader would read the unfinished line again at each look
            events = Events()
            events.bad = 1
            yield events, offset + skipped


def last_events(path: Path, kinds: tuple[str, ...] | None = None, window: int = 1 << 12) -> list[dict[str, Any]]:
    """The events in the last ``window`` bytes of the file, oldest first, of the given ``kinds`` if any are named.

    If there is none among them (one event may be longer than that), more of the file is read until there is one.
    """
    try:
        with open_unlinked(path) as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - window)
            file.seek(start)
            data = file.read()
    except FileNotFoundError:
        return []
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    events = [e for line in lines[1 if start else 0 :] if (e := _parse(line)) is not None]
    found = [e for e in events if kinds is None or e["kind"] in kinds]
    return found if found or not start or window > _LAST_WINDOW else last_events(path, kinds, 8 * window)


def _last_byte(path: Path) -> bytes:
    """The last byte of a file; none of an empty one."""
    with open_unlinked(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read(1)


def parse_lines(data: bytes) -> Events:
    """The usable events of lines; the last one need not be whole."""
    try:
        found = orjson.loads(b"[" + data.rstrip(b"\n").replace(b"\n", b",") + b"]")  # all at once: twice as fast
    except ValueError:
        found = [_loaded(line) for line in data.split(b"\n") if line]
    events = Events(event for event in found if is_usable(event))
    events.bad = len(found) - len(events)
    return events


def _parse(line: bytes) -> dict[str, Any] | None:
    event = _loaded(line)
    return event if is_usable(event) else None


def _loaded(line: bytes) -> Any:
    """What a line holds; None if it is not JSON."""
    try:
        return orjson.loads(line)
    except ValueError:
        try:
            return json.loads(line)  # takes NaN, integers of any length and broken surrogates, which orjson refuses
        except (ValueError, RecursionError):
            return None
