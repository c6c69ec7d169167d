"""The worker's output as lines: the end of it, or the lines that hold a text."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

from studio.runs.plain_file import open_plain

TAIL_BYTES = 64_000
FOUND_LINES = 500
_LINE_CHARACTERS = 2000


def tail(path: Path) -> tuple[list[str], bool]:
    """The last lines of a file, and whether there are others before them. No file has no lines."""
    try:
        with open_plain(path) as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - TAIL_BYTES)
            file.seek(start)
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return [], False
    if lines and not lines[-1]:
        lines.pop()
    return [_shown(line) for line in (lines[1:] if start and len(lines) > 1 else lines)], start > 0


def search(path: Path, text: str) -> tuple[list[tuple[int, str]], int]:
    """The last lines that hold ``text``, whatever its case, each with its number from 1; and how many lines hold it."""
    wanted = text.lower()
    found: deque[tuple[int, str]] = deque(maxlen=FOUND_LINES)
    count = 0
    try:
        with open_plain(path) as file:
            for number, raw in enumerate(file, 1):
                line = _shown(raw.rstrip(b"\n"))
                if wanted in line.lower():
                    found.append((number, line))
                    count += 1
    except FileNotFoundError:
        pass  # nothing has been printed yet
    return list(found), count


def _shown(line: bytes) -> str:
    """A line as a terminal shows it: what a carriage return has overwritten is gone."""
    text = line.rstrip(b"\r").rsplit(b"\r", 1)[-1].decode("utf-8", "replace")
    return text if len(text) <= _LINE_CHARACTERS else text[:_LINE_CHARACTERS] + " …"
