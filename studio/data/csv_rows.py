"""CSV and TSV to rows: the delimiter and the header as spreadsheets and scripts write them."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from studio.data.files import MOST_COLUMNS, Row, text_lines, too_many_columns
from studio.errors import StudioError

_DELIMITERS = ",;\t|"
_DECLARED = re.compile(r'"?sep=(.)"?[;,\t ]*\r?\n?', re.IGNORECASE)  # Excel's first line
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_HEADER_LINES = 50  # that a quoted header may span


def read_csv(path: Path, kind: str) -> Iterator[Row]:
    """The rows of a file; a row's number is the line on which it ends.

    Raises:
        StudioError: two columns of one name, a line with another number of fields, broken quoting, or no rows.
    """
    csv.field_size_limit(1 << 30)
    lines = (line for _, line in text_lines(path))
    first = next(lines, "")
    skipped = 0
    declared = _DECLARED.fullmatch(first)
    if declared:
        first, skipped = next(lines, ""), 1
    head = [first]
    while "".join(head).count('"') % 2 and len(head) < _HEADER_LINES and (line := next(lines, "")):
        head.append(line)
    header_text = "".join(head)
    delimiter = declared[1] if declared else "\t" if kind == ".tsv" else _delimiter(header_text)
    second = next(lines, "")
    spaced = delimiter != "\t" and _spaced(header_text, second, delimiter)
    every = chain(head, [second] if second else [], lines)
    reader = csv.reader(every, delimiter=delimiter, strict=True, skipinitialspace=spaced)
    found = False
    try:
        header = [name.strip().strip("\ufeff\u200b").strip() for name in next(reader, [])]
        if len(header) > MOST_COLUMNS:
            raise too_many_columns(path.name, len(header))
        repeated = sorted(name for name, times in Counter(header).items() if times > 1)
        if repeated:
            raise StudioError(
                f"{path.name}: duplicate column {repeated[0]!r}.", "Rename one of the two.", code="duplicate_column"
            )
        for fields in reader:
            if not fields:
                continue
            line = reader.line_num + skipped
            if len(fields) != len(header):
                raise StudioError(
                    f"{path.name}, line {line}: {len(fields)} fields where the header has {len(header)} columns.",
                    "Put fields that contain the delimiter or a line break in double quotes.",
                )
            found = True
            yield Row(line, dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        line = reader.line_num + skipped
        raise StudioError(f"{path.name}, line {line}: broken CSV ({error}).", "Correct that line.") from error
    if not found:
        raise StudioError(f"{path.name} has a header and no rows.", "Choose a file with at least one row.")


def _delimiter(header: str) -> str:
    """Return the character that separates most names of a header; those within quotes do not count."""
    bare = _QUOTED.sub("", header)
    return max(_DELIMITERS, key=bare.count)


def _spaced(header: str, second: str, delimiter: str) -> bool:
    """Whether a space follows each delimiter: in the whole header, or before a quoted field of the first row."""
    bare = _QUOTED.sub('"', header)
    every = bare.count(delimiter)
    return (every > 0 and every == bare.count(f"{delimiter} ")) or f'{delimiter} "' in _QUOTED.sub('"', second)
