"""Files to rows, one at a time: nothing is copied into memory whole, and every error names its line."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, dropwhile, islice
from pathlib import Path
from typing import Any

from studio.data.files import (
    KINDS,
    LONGEST_LINE,
    files_of,
    kind_of,
    known_kinds,
    opened,
    opened_text,
    refuse_binary,
    text_lines,
)
from studio.errors import StudioError

_CHUNK = 1 << 20  # characters read at a time from a JSON file
_BLOCK = 2000  # characters of running text in one row, cut at a blank line


@dataclass(frozen=True)
class Row:
    """One row of a dataset: its ``number`` (the line in the file, where it has lines) and its column ``values``."""

    number: int
    values: dict[str, Any]


def read_source(path: Path, start: int = 1) -> Iterator[Row]:
    """The rows of a file, or of all files of a folder one after another.

    Args:
        start: the number of the first row that is wanted; of a folder, counted over its files.

    Raises:
        StudioError: as ``read_file``.
    """
    files = files_of(path)
    if len(files) == 1:
        yield from read_file(files[0], start)
    else:
        yield from islice(chain.from_iterable(map(read_file, files)), start - 1, None)


def read_file(path: Path, start: int = 1) -> Iterator[Row]:
    """The rows of one file of a kind in ``KINDS``, from the row with the number ``start`` on.

    Raises:
        StudioError: missing, empty, not of that kind, or broken at a line that the message names. Raised at the row
            where it is met, so the rows before it have been given by then.
    """
    if not path.exists():
        raise StudioError(f"There is no file at {path}.", "Check the path, or upload the file.")
    kind, packed = kind_of(path)
    if kind not in KINDS or (packed and kind in (".parquet", ".arrow")):
        raise StudioError(f"{path.name} is of a kind that the studio does not read.", f"Use one of: {known_kinds()}.")
    if path.stat().st_size == 0:
        raise StudioError(f"{path.name} is empty (0 bytes).", "Choose a file with at least one row.")
    if not os.access(path, os.R_OK):
        raise StudioError(f"{path.name} may not be read.", "Check the file's permissions.")
    if kind in (".parquet", ".arrow"):
        return _table(path, kind, start)
    refuse_binary(path)
    if kind in (".txt", ".md"):
        rows = _running_text(path)
    elif kind in (".csv", ".tsv"):
        rows = _csv(path, kind)
    elif kind == ".json" and not _one_object_a_line(path):
        rows = _json(path)
    else:
        return _jsonl(path, start)
    return dropwhile(lambda row: row.number < start, rows)


def _one_object_a_line(path: Path) -> bool:
    """Whether a ``.json`` file is really JSON Lines: its first line is a whole object and a second one follows."""
    with opened(path) as file:
        first = file.readline(_CHUNK)
        if not first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):  # an array may be one line of many gigabytes
            return False
        first += b"" if first.endswith(b"\n") else file.readline(LONGEST_LINE)
        second = next((line for line in iter(lambda: file.readline(_CHUNK), b"") if line.strip()), b"")
    if not second.lstrip().startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(first.decode("utf-8-sig")), dict)
    except ValueError:
        return False


def _jsonl(path: Path, start: int) -> Iterator[Row]:
    found = start > 1
    for number, line in text_lines(path, start):
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
    with opened_text(path) as file:
        first = _head(path, file)
    with opened_text(path) as file:
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


def _csv(path: Path, kind: str) -> Iterator[Row]:
    csv.field_size_limit(1 << 30)
    lines = (line for _, line in text_lines(path))
    first = next(lines, "")
    delimiter = "\t" if kind == ".tsv" else max(",;\t", key=first.count)

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


def _running_text(path: Path) -> Iterator[Row]:
    """Running text as rows of one column ``text``: paragraphs, joined while they are short. Nothing is left out."""
    block: list[str] = []
    start = size = 0
    for number, line in text_lines(path):
        if size > _BLOCK and not line.strip():
            yield Row(start, {"text": "".join(block).strip()})
            block, size = [], 0
        if not block and not line.strip():
            continue
        if not block:
            start = number
        block.append(line)
        size += len(line)
    if block:
        yield Row(start, {"text": "".join(block).strip()})
    elif not start:
        raise StudioError(f"{path.name} holds only blank lines.", "Choose a file with some text.")


def _table(path: Path, kind: str, start: int) -> Iterator[Row]:
    import pyarrow as pa

    number = 0
    try:
        for batch in _parquet_batches(path) if kind == ".parquet" else _arrow_batches(path):
            skip = min(batch.num_rows, max(0, start - 1 - number))
            number += skip
            for values in batch.slice(skip).to_pylist() if skip < batch.num_rows else []:
                number += 1
                yield Row(number, values)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        what = "Parquet" if kind == ".parquet" else "Arrow"
        raise StudioError(f"{path.name} is not a readable {what} file: {reason}", "Write the file again.") from error
    if not number:
        raise StudioError(f"{path.name} holds no rows.", "Choose a file with at least one row.")


def _parquet_batches(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=1000)


def _arrow_batches(path: Path) -> Iterator[Any]:
    """Record batches of the file or the stream format (``datasets`` writes the second), memory-mapped."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        if file.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(path)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            file.seek(0)
            batches = iter(pa.ipc.open_stream(file))
        for batch in batches:
            for start in range(0, batch.num_rows, 1000):
                yield batch.slice(start, 1000)
