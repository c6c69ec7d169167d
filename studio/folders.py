"""Walks over folders that a person has named: a folder may be the whole disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from studio.errors import StudioError

MOST_ENTRIES = 20_000  # files and folders below the one that is named
MOST_DEPTH = 40


def files_below(folder: Path, field: str, most: int = MOST_ENTRIES) -> Iterator[Path]:
    """The files below a folder, in no order. Links to folders are not followed, so a loop of links has an end.

    Args:
        field: of the recipe, that names the folder.
        most: entries that are looked at.

    Raises:
        StudioError: there are more entries, or they are nested deeper (code ``folder_too_large``).
    """
    seen = 0
    waiting = [(folder, 0)]
    while waiting:
        place, depth = waiting.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    seen += 1
                    if seen > most or depth > MOST_DEPTH:
                        raise StudioError(
                            f"The folder {folder} holds more than {most:,} files and folders.",
                            "Name a folder that holds nothing else, or one file.",
                            field=field,
                            code="folder_too_large",
                        )
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((Path(entry.path), depth + 1))
                    elif _is_file(entry):
                        yield Path(entry.path)
        except OSError:  # a folder that may not be read, or is gone, is no part of it
            continue


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False
