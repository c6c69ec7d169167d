"""Files to rows, one at a time: nothing is copied into memory whole, and every error names its line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import dropwhile
from pathlib import Path
from typing import Any

from studio.data.csv_rows import read_csv
from studio.data.files import (
    KINDS,
    LONGEST_LINE,
    MOST_COLUMNS,
    Row,
    files_of,
    kind_of,
    known_kinds,
    refuse_binary,
    text_lines,
    too_many_columns,
)
from studio.data.json_rows import jsonl_rows_at, one_object_a_line, read_json, read_jsonl
from studio.errors import StudioError

_BATCH_BYTES = 64 << 20  # of a table, decompressed, that are made into rows at a time
_BLOCK = 2000  # characters of running text in one row, cut at a blank line


def read_source(path: Path, start: int = 1, split: str = "train") -> Iterator[Row]:
    """The rows of a file, or of all files of a folder's split one after another.

    Args:
        start: the number of the first row that is wanted; of a folder, counted over its files.

    Raises:
        StudioError: as ``read_file``.
    """
    files = files_of(path, split)
    if len(files) == 1:
        yield from read_file(files[0], start)
    else:
        yield from dropwhile(lambda row: row.number < start, _one_after_another(files))


def _one_after_another(files: list[Path]) -> Iterator[Row]:
    number = 0
    for file in files:
        for row in read_file(file):
            number += 1
            yield replace(row, number=number, where=f"{file.name}, row {row.number}")


def read_rows_at(path: Path, numbers: Iterable[int], split: str = "train") -> Iterator[Row]:
    """The rows with these numbers, in ascending order; of JSON Lines only they are parsed.

    Raises:
        StudioError: as ``read_file``.
    """
    wanted = sorted(set(numbers))
    files = files_of(path, split)
    if not wanted:
        return
    if len(files) == 1 and is_jsonl(files[0]):
        yield from jsonl_rows_at(files[0], wanted)
        return
    left = set(wanted)
    for row in read_source(path, wanted[0], split):
        if row.number in left:
            left.remove(row.number)
            yield row
        if not left:
            return


def is_jsonl(path: Path) -> bool:
    """Whether a file holds one JSON object a line, whatever it is called."""
    kind = kind_of(path)[0]
    return kind in (".jsonl", ".ndjson") or (kind == ".json" and one_object_a_line(path))


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
        rows = read_csv(path, kind)
    elif is_jsonl(path):
        return read_jsonl(path, start)
    else:
        rows = read_json(path)
    return dropwhile(lambda row: row.number < start, rows)


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
            names = _class_names(batch.schema.metadata)
            skip = min(batch.num_rows, max(0, start - 1 - number))
            number += skip
            for values in batch.slice(skip).to_pylist() if skip < batch.num_rows else []:
                number += 1
                named = {column: class_name(values.get(column), known) for column, known in names.items()}
                yield Row(number, {**values, **named} if named else values, from_table=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0][:200]
        what = "Parquet" if kind == ".parquet" else "Arrow"
        raise StudioError(f"{path.name} is not a readable {what} file: {reason}", "Write the file again.") from error
    if not number:
        raise StudioError(f"{path.name} holds no rows.", "Choose a file with at least one row.")


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of the classes of each column of labels, where ``datasets`` has written the table."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        columns = {name: value.get("feature", value) for name, value in features.items() if isinstance(value, dict)}
        return {name: value["names"] for name, value in columns.items() if value.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # not written by datasets, or by another version of it: labels stay numbers


def class_name(value: Any, names: list[str]) -> Any:
    """A label by its name, or a list of labels by their names."""
    if isinstance(value, list):
        return [class_name(item, names) for item in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


def _parquet_batches(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        if len(file.schema_arrow.names) > MOST_COLUMNS:
            raise too_many_columns(path.name, len(file.schema_arrow.names))
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            size = group.total_byte_size / max(1, group.num_rows)  # of a row, once it is decompressed
            if size > LONGEST_LINE:
                raise StudioError(
                    f"{path.name}: a row of about {size / 1e6:,.0f} MB.",
                    f"A row may have {LONGEST_LINE >> 20} MB; is it really a file of rows?",
                    field="data.source",
                    code="row_too_large",
                )
            rows = int(min(1000, max(1, _BATCH_BYTES // max(1, size))))
            yield from file.iter_batches(batch_size=rows, row_groups=[number])


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
            if batch.num_columns > MOST_COLUMNS:
                raise too_many_columns(path.name, batch.num_columns)
            rows = int(min(1000, max(1, _BATCH_BYTES * batch.num_rows // max(1, batch.nbytes))))
            for start in range(0, batch.num_rows, rows):
                yield batch.slice(start, rows)
