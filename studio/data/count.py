"""How many rows a large file has, where that can be told without parsing it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from studio.data.files import files_of, kind_of, opened
from studio.data.row_reader import is_jsonl

_BLOCK = 1 << 22  # bytes
_BLANK = re.compile(rb"\n(?=[ \t\r]*\n)")  # the end of a line that a blank one follows


def countable(source: Path, split: str = "train") -> bool:
    """Whether the rows can be counted without parsing them: Parquet, and JSON Lines that are not compressed."""
    files = files_of(source, split)
    return all(kind_of(file)[0] == ".parquet" or (not kind_of(file)[1] and is_jsonl(file)) for file in files)


def count_rows(source: Path, progress: Callable[[float], None] = lambda share: None, split: str = "train") -> int:
    """The rows of a file or a folder that is ``countable``; of JSON Lines its lines that are not blank.

    Args:
        progress: called with the share of the bytes that has been read, 0 to 1.

    Raises:
        StudioError: the folder holds no file that the studio reads.
    """
    files = files_of(source, split)
    sizes = [file.stat().st_size for file in files]
    whole, before, rows = max(1, sum(sizes)), 0, 0
    for file, size in zip(files, sizes, strict=True):
        if kind_of(file)[0] == ".parquet":
            import pyarrow.parquet as pq

            rows += pq.read_metadata(file).num_rows
        else:
            rows += _lines(file, lambda done, before=before: progress((before + done) / whole))
        before += size
        progress(before / whole)
    return rows


def _lines(path: Path, progress: Callable[[int], None]) -> int:
    done = lines = 0
    rest = b"\n"  # the line break that what comes next follows
    with opened(path) as file:
        while block := file.read(_BLOCK):
            done += len(block)
            whole, found, tail = (rest + block).rpartition(b"\n")
            if found:
                lines += whole.count(b"\n") - len(_BLANK.findall(whole + b"\n"))
            rest = found + tail
            progress(done)
    return lines + bool(rest.strip())
