"""Which files a source names, and their bytes and lines, decompressed as they are read."""

from __future__ import annotations

import gzip
import io
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from studio.data.splits import Taken, by_split, saved_files, saved_splits
from studio.errors import StudioError
from studio.folders import files_below

KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".md")
PACKED = (".gz", ".zst")  # each kind of text file may be compressed
_CHUNK = 1 << 20
_HEAD = 1 << 16  # bytes looked at to find how lines end
_MARKED = 1 << 24  # bytes between two remembered places of a file
MOST_COLUMNS = 10_000
LONGEST_LINE = 1 << 28  # bytes; what decompresses to more in one line is not a dataset


@dataclass(frozen=True)
class Row:
    """One row of a dataset: its ``number`` (the line in the file, where it has lines) and its column ``values``.

    ``where`` says the file and the row in it, if the dataset is of several files. ``from_table`` says that it comes
    from typed columns (Parquet, Arrow, the Hub), where a struct has a null for each field of other rows.
    """

    number: int
    values: dict[str, Any]
    where: str = ""
    from_table: bool = False


def files_of(source: Path, split: str = "train") -> list[Path]:
    """The files of a split that a path names: itself, or the files of a folder that the studio reads, sorted by name.

    Hidden files and files called like a README or a licence are no data; folders in the folder are looked into.

    Raises:
        StudioError: the folder holds no such file, or not this split.
    """
    groups = splits_of(source)
    if split in groups:
        return groups[split]
    if len(groups) == 1 and split == "train":
        return next(iter(groups.values()))  # the only split of a saved dataset, whatever its name
    if source.is_dir() and split in by_split(groups.get("train", []), source) and len(groups) == 1:
        return groups["train"]  # a folder of test files alone, by the name of that split
    raise StudioError(
        f"{source.name} has no split {split!r}.",
        f"It has: {', '.join(groups)}; choose one in data.split."
        if len(groups) > 1 or source.is_dir()
        else "A local file has only the split train; name the file of that split in data.source.",
        field="data.split",
        code="no_such_split",
    )


def splits_of(source: Path) -> dict[str, list[Path]]:
    """The files of each split of a path, ``train`` first. A file, and a folder of one split, is all ``train``.

    A saved ``DatasetDict`` keeps the names of its splits, also where it has only one.

    Raises:
        StudioError: the folder holds no file that the studio reads, or far too many.
    """
    if not source.is_dir():
        return {"train": [source]}
    if names := saved_splits(source):
        saved = {name: _files_in(source / name) for name in names if (source / name).is_dir()}
        if any(saved.values()):
            return {name: files for name, files in saved.items() if files}
    found = _files_in(source)
    if not found:
        raise StudioError(f"The folder {source} holds no file that the studio reads.", f"It reads: {known_kinds()}.")
    groups = by_split(found, source)
    return groups if len(groups) > 1 else {"train": found}


def taken(source: Path, split: str = "train") -> Taken | None:
    """Which files are read and which are left out; None where no name says a split other than ``train``.

    Raises:
        StudioError: as ``files_of``.
    """
    groups = splits_of(source)
    if len(groups) == 1:
        (only,) = groups
        if only != "train":
            split = only if split == "train" else split
        elif not source.is_dir() or "train" in by_split(groups["train"], source):
            return None
    names = {name: tuple(str(path.relative_to(source)) for path in files) for name, files in groups.items()}
    files = tuple(str(path.relative_to(source)) for path in files_of(source, split))
    return Taken(split, files, {name: others for name, others in names.items() if name != split})


def _files_in(folder: Path) -> list[Path]:
    every = files_below(folder, "data.source")
    found = sorted(path for path in every if kind_of(path)[0] in KINDS and not _aside(path, folder))
    saved = {parent: saved_files(parent) for parent in {path.parent for path in found}}
    return [path for path in found if saved[path.parent] is None or path.name in saved[path.parent]]


def too_many_columns(name: str, count: int) -> StudioError:
    """The refusal of a dataset that is wider than any that is trained on."""
    return StudioError(
        f"{name} has {count:,} columns.",
        f"At most {MOST_COLUMNS:,} are read; is it really a table with one row for each example?",
        field="data.source",
        code="too_many_columns",
    )


def _aside(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return hidden or path.stem.lower() in ("readme", "license", "dataset_info", "dataset_dict", "state")


def kind_of(path: Path) -> tuple[str, str]:
    """What a file is by its name: its suffix without the compression's (``.jsonl``), and the compression (``.gz``)."""
    suffix = path.suffix.lower()
    return (Path(path.stem).suffix.lower(), suffix) if suffix in PACKED else (suffix, "")


def known_kinds() -> str:
    return f"{', '.join(KINDS)}, also compressed with {' or '.join(PACKED)}"


class _NewlinesForReturns(io.RawIOBase):
    """A file whose lines end with a carriage return alone (old Mac programs), with newlines instead of them."""

    def __init__(self, file: BinaryIO):
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        block = self._file.read(len(buffer)).replace(b"\r", b"\n")
        buffer[: len(block)] = block
        return len(block)


def _with_newlines(path: Path, file: Any) -> Any:
    """The file itself, or with newlines if it is a text file whose lines end with a carriage return alone."""
    if kind_of(path)[0] in (".parquet", ".arrow"):
        return file
    head = file.peek(_HEAD)[:_HEAD]
    return io.BufferedReader(_NewlinesForReturns(file), _CHUNK) if b"\r" in head and b"\n" not in head else file


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed as they are read; the lines of a text file end with a newline."""
    packed = kind_of(path)[1]
    with path.open("rb", buffering=_HEAD) as raw:
        try:
            if packed == ".gz":
                with gzip.open(raw) as file:
                    yield _with_newlines(path, file)
            elif packed == ".zst":
                import pyarrow as pa

                with pa.CompressedInputStream(raw, "zstd") as stream, io.BufferedReader(stream, _CHUNK) as file:
                    yield _with_newlines(path, file)
            else:
                yield _with_newlines(path, raw)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise _unpackable(path, error) from error
        except OSError as error:
            if not packed or error.errno:
                raise
            raise _unpackable(path, error) from error


def _unpackable(path: Path, error: Exception) -> StudioError:
    return StudioError(
        f"{path.name} cannot be decompressed ({str(error)[:120]}).", "It may be cut off; copy or compress it again."
    )


@contextmanager
def opened_text(path: Path) -> Iterator[TextIO]:
    with opened(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        yield text


def refuse_binary(path: Path) -> None:
    with opened(path) as file:
        head = file.read(8192)
    kinds = {b"PAR1": "Parquet", b"PK\x03\x04": "zip", b"\x1f\x8b": "gzip", b"\x89PNG": "PNG", b"%PDF": "PDF"}
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise StudioError(f"{path.name} is in UTF-16.", "Save the file in UTF-8.")
    kind = next((name for magic, name in kinds.items() if head.startswith(magic)), None)
    if kind or b"\x00" in head:
        looks = f"it looks like {kind}" if kind else "it holds binary data"
        fix = "Rename it to .parquet." if kind == "Parquet" else "Choose a text file in UTF-8, one JSON object a line."
        raise StudioError(f"{path.name} is not a text file: {looks}.", fix)


def text_lines(path: Path, start: int = 1) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 file, from line ``start`` on; a byte-order mark is taken off."""
    with opened(path) as file:
        skip = start - 1
        if kind_of(path)[1]:  # compressed bytes cannot be moved back in, so these lines are read
            skip -= sum(1 for _ in islice(file, skip))
        if not _skip_lines(path, file, skip):
            return
        for number, raw in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), start):
            yield number, _decoded(path, number, raw)


def lines_at(path: Path, numbers: Iterable[int]) -> Iterator[tuple[int, str]]:
    """Some lines of a UTF-8 file by their numbers, which must ascend; those beyond its end are left out."""
    if kind_of(path)[1]:
        wanted = set(numbers)
        last = max(wanted, default=0)
        yield from ((number, line) for number, line in islice(text_lines(path), last) if number in wanted)
        return
    with opened(path) as file:
        at = 1
        for number in numbers:
            if not _skip_lines(path, file, number - at, at - 1):
                return
            raw, at = file.readline(LONGEST_LINE), number + 1
            if raw:
                yield number, _decoded(path, number, raw)


def _decoded(path: Path, number: int, raw: bytes) -> str:
    if len(raw) == LONGEST_LINE:
        raise StudioError(
            f"{path.name}, line {number}: longer than {LONGEST_LINE >> 20} MB.",
            "Each line must be one row; is it really a file of rows?",
        )
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise StudioError(
            f"{path.name}, line {number}: byte {error.start + 1} is not UTF-8.", "Save the file in UTF-8."
        ) from error


@lru_cache(maxsize=16)
def _marks(path: str, size: int, changed: int) -> list[tuple[int, int]]:
    """(lines before, byte) for some places in a file, in order: what earlier readings of it have passed."""
    return [(0, 0)]


def _skip_lines(path: Path, file: BinaryIO, count: int, passed: int = 0) -> bool:
    """Move past so many lines without looking at them, a gigabyte in half a second; False if the file is shorter.

    Args:
        passed: how many lines of the file have been read before.
    """
    if not count:
        return True
    marks: list[tuple[int, int]] = [(0, 0)]
    if not kind_of(path)[1]:
        stat = path.stat()
        marks = _marks(str(path), stat.st_size, stat.st_mtime_ns)
        near = marks[bisect_right(marks, passed + count, key=lambda mark: mark[0]) - 1]
        if near[0] > passed:
            file.seek(near[1])
            count, passed = passed + count - near[0], near[0]
    while count and (block := file.read(_CHUNK << 2)):
        lines = block.count(b"\n")
        if lines >= count:
            end = 0
            for _ in range(count):
                end = block.index(b"\n", end) + 1
            file.seek(end - len(block), io.SEEK_CUR)
            return True
        count -= lines
        passed += lines
        place = file.tell()
        if lines and place - marks[-1][1] >= _MARKED:
            marks.append((passed, place - len(block) + block.rfind(b"\n") + 1))
    return not count


def identity(source: Path, split: str = "train") -> list[tuple[str, int, int]]:
    """What changes when any file of a source's split does: its path, size in bytes, time of change in nanoseconds."""
    stats = [(file, file.stat()) for file in files_of(source, split)]
    return [(str(file.resolve()), stat.st_size, stat.st_mtime_ns) for file, stat in stats]
