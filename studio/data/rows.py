"""Files to rows, one at a time: nothing is copied into memory whole, and every error names its line."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.errors import StudioError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_CHUNK = 1 << 20  # characters read at a time from a JSON file


@dataclass(frozen=True)
class Row:
    """One row of a dataset: its ``number`` (the line in the file, where it has lines) and its column ``values``."""

    number: int
    values: dict[str, Any]


def read_file(path: Path) -> Iterator[Row]:
    """The rows of a JSON, JSONL, CSV, TSV or Parquet file.

    Raises:
        StudioError: missing, empty, not of that kind, or broken at a line that the message names. Raised at the row
            where it is met, so the rows before it have been given by then.
    """
    if not path.exists():
        raise StudioError(f"There is no file at {path}.", "Check the path, or upload the file.")
    if path.is_dir():
        raise StudioError(f"{path} is a folder.", "Name one JSON, JSONL, CSV or Parquet file in it.")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise StudioError(
            f"{path.name} is of a kind that the studio does not read.", f"Use one of: {', '.join(SUFFIXES)}."
        )
    if path.stat().st_size == 0:
        raise StudioError(f"{path.name} is empty (0 bytes).", "Choose a file with at least one row.")
    if not os.access(path, os.R_OK):
        raise StudioError(f"{path.name} may not be read.", "Check the file's permissions.")
    if suffix == ".parquet":
        return _parquet(path)
    _refuse_binary(path)
    if suffix in (".csv", ".tsv"):
        return _csv(path)
    if suffix == ".json" and not _one_object_a_line(path):
        return _json(path)
    return _jsonl(path)


def _refuse_binary(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(8192)
    kinds = {b"PAR1": "Parquet", b"PK\x03\x04": "zip", b"\x1f\x8b": "gzip", b"\x89PNG": "PNG", b"%PDF": "PDF"}
    kind = next((name for magic, name in kinds.items() if head.startswith(magic)), None)
    if kind or b"\x00" in head:
        looks = f"it looks like {kind}" if kind else "it holds binary data"
        fix = "Rename it to .parquet." if kind == "Parquet" else "Choose a text file in UTF-8, one JSON object a line."
        raise StudioError(f"{path.name} is not a text file: {looks}.", fix)


def _one_object_a_line(path: Path) -> bool:
    """Whether a ``.json`` file is really JSON Lines: its first line is a whole object and a second one follows."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        if not file.read(1024).lstrip().startswith("{"):  # an array may be one line of many gigabytes
            return False
        file.seek(0)
        first = file.readline().strip()
        second = next((line for line in file if line.strip()), "")
    if not second.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except ValueError:
        return False


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 file, from 1; a byte-order mark is taken off."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise StudioError(
                    f"{path.name}, line {number}: byte {error.start + 1} is not UTF-8.",
                    "Save the file in UTF-8.",
                ) from error


def _jsonl(path: Path) -> Iterator[Row]:
    found = False
    for number, line in _text_lines(path):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", str(error))
            column = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            raise StudioError(
                f"{path.name}, line {number}{column}: broken JSON ({reason}).",
                "Mend or remove that line; each line must be one whole JSON object.",
            ) from error
        yield _object(path, number, values)
        found = True
    if not found:
        raise StudioError(f"{path.name} holds no rows, only blank lines.", "Choose a file with at least one row.")


def _object(path: Path, number: int, values: Any) -> Row:
    if not isinstance(values, dict):
        raise StudioError(
            f"{path.name}, line {number}: a {type(values).__name__} where a JSON object should be.",
            'Each row must be an object such as {"prompt": "...", "completion": "..."}.',
        )
    return Row(number, values)


def _json(path: Path) -> Iterator[Row]:
    """A JSON array of objects, decoded object by object; or an object with one such array in it."""
    with path.open(encoding="utf-8-sig") as file:
        first = _head(path, file)
        file.seek(0)
        if first == "[":
            yield from _array(path, file)
            return
        try:
            whole = json.load(file)
        except (ValueError, RecursionError) as error:
            raise _broken(path, error) from error
    arrays = [v for v in whole.values() if isinstance(v, list) and v] if isinstance(whole, dict) else []
    if isinstance(whole, dict) and (not arrays or any(_are_turns(array) for array in arrays)):
        yield Row(1, whole)
    elif len(arrays) == 1 and all(isinstance(item, dict) for item in arrays[0]):
        yield from (Row(number, item) for number, item in enumerate(arrays[0], 1))
    else:
        raise StudioError(f"{path.name} is not a list of rows.", "Use a JSON array of objects, or one object a line.")


def _are_turns(array: list) -> bool:
    return all(isinstance(item, dict) and ("role" in item or "from" in item) for item in array)


def _head(path: Path, file) -> str:
    try:
        return file.read(65536).lstrip()[:1]
    except UnicodeDecodeError as error:
        raise StudioError(f"{path.name} is not in UTF-8.", "Save the file in UTF-8.") from error


def _broken(path: Path, error: ValueError | RecursionError, line: int = 0) -> StudioError:
    if isinstance(error, UnicodeDecodeError):
        return StudioError(f"{path.name} is not in UTF-8.", "Save the file in UTF-8.")
    number = line or getattr(error, "lineno", 1)
    reason = getattr(error, "msg", str(error))
    return StudioError(f"{path.name}, line {number}: broken JSON ({reason}).", "Mend the file at that line.")


def _array(path: Path, file) -> Iterator[Row]:
    decoder, buffer, position, line, number, ended = json.JSONDecoder(), "", 0, 1, 0, False
    wanted = _CHUNK
    opened = False
    while True:
        position, line = _skip(buffer, position, line, " \t\r\n" if not opened else " \t\r\n,")
        if position < len(buffer) and not opened:
            opened, position = True, position + 1  # the bracket that opens the array
            continue
        if opened and buffer[position : position + 1] == "]":
            _refuse_more(path, buffer[position + 1 :], file, line)
            break
        try:
            if position == len(buffer):
                raise json.JSONDecodeError("the array does not end", buffer, position)
            value, end = decoder.raw_decode(buffer, position)
        except RecursionError as error:
            raise _broken(path, error, line) from error
        except json.JSONDecodeError as error:
            if ended:
                raise _broken(path, error, line + buffer.count("\n", position, error.pos)) from error
            buffer, position = buffer[position:], 0
            try:
                more = file.read(max(wanted, len(buffer)))  # doubling: a long object is parsed a few times, not often
            except UnicodeDecodeError as failure:
                raise _broken(path, failure) from failure
            buffer, ended = buffer + more, not more
            continue
        number += 1
        row = _object(path, line, value)
        yield Row(number, row.values)
        line += buffer.count("\n", position, end)
        position = end
    if not number:
        raise StudioError(f"{path.name} holds an empty list.", "Choose a file with at least one row.")


def _refuse_more(path: Path, rest: str, file, line: int) -> None:
    while rest or (rest := file.read(_CHUNK)):
        if text := rest.lstrip():
            line += rest[: len(rest) - len(text)].count("\n")
            raise StudioError(
                f"{path.name}, line {line}: text after the end of the list.", "Put all rows into one list."
            )
        line, rest = line + rest.count("\n"), ""


def _skip(buffer: str, position: int, line: int, what: str) -> tuple[int, int]:
    while position < len(buffer) and buffer[position] in what:
        line += buffer[position] == "\n"
        position += 1
    return position, line


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(1 << 30)
    lines = (line for _, line in _text_lines(path))
    first = next(lines, "")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)

    def whole() -> Iterator[str]:
        yield first
        yield from lines

    reader = csv.reader(whole(), delimiter=delimiter, strict=True)
    found = False
    try:
        header = next(reader, [])
        repeated = sorted({name for name in header if header.count(name) > 1})
        if repeated:
            raise StudioError(f"{path.name}: the column {repeated[0]!r} stands twice.", "Rename one of the two.")
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                where = f"{path.name}, line {reader.line_num}"
                raise StudioError(
                    f"{where}: {len(fields)} fields where the header has {len(header)} columns.",
                    "Put fields that contain the delimiter or a line break in double quotes.",
                )
            found = True
            yield Row(reader.line_num, dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise StudioError(f"{path.name}, line {reader.line_num}: broken CSV ({error}).", "Mend that line.") from error
    if not found:
        raise StudioError(f"{path.name} has a header and no rows.", "Choose a file with at least one row.")


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        if file.metadata.num_rows == 0:
            raise StudioError(f"{path.name} holds no rows.", "Choose a file with at least one row.")
        number = 0
        for batch in file.iter_batches(batch_size=1000):
            for values in batch.to_pylist():
                number += 1
                yield Row(number, values)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise StudioError(f"{path.name} is not a readable Parquet file: {reason}", "Write the file again.") from error
