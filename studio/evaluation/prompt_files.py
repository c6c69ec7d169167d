"""Read files of prompts: the one reader of suites and of ``compare --prompts``.

``.json`` holds a list (or one object), ``.jsonl`` a value a line, ``.csv`` a row each, any other file a prompt a line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studio.errors import StudioError

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".txt")
_MOST_BYTES = 50_000_000
_MOST_DEPTH = 50
_LONGEST_CELL = 131_072  # characters; checked here, since the limit of the csv module is one for the whole process


def read_prompt_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Where each row of a file of prompts stands (for messages) and its value: a text, or an object.

    Raises:
        StudioError: there is no such file, it is too large, not UTF-8, or a row of it is broken.
    """
    text = _text(path)
    kinds = {".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json_list, ".csv": _table}
    return kinds.get(path.suffix.lower(), _lines)(text, path.name)


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            reason = "it is no regular file" if path.exists() else "there is no such file"
            raise StudioError(f"{str(path)[:300]} cannot be read: {reason}.", "Check the path.", code="no-prompt-file")
        if path.stat().st_size > _MOST_BYTES:
            raise StudioError(
                f"{path.name} is larger than {_MOST_BYTES // 1_000_000} MB.",
                "A file of prompts has a few hundred; take a part of it.",
                code="prompt-file-too-large",
            )
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StudioError(f"{path.name} is not text in UTF-8.", "Save it as UTF-8.", code="not-utf-8") from error
    except (OSError, ValueError) as error:  # no permission; a name that no file system takes
        reason = getattr(error, "strerror", None) or error
        raise StudioError(
            f"{str(path)[:300]!r} cannot be read: {reason}.", "Check the path.", code="no-prompt-file"
        ) from error


def parse_json(text: str, where: str) -> Any:
    """A JSON value; NaN and Infinity, which JSON does not have, and deep nesting are refused.

    Raises:
        StudioError: (``not-json``) naming ``where``.
    """

    def no_constant(name: str) -> None:
        raise ValueError(f"JSON has no {name}")

    try:
        value = json.loads(text, parse_constant=no_constant)
        if _depth(value) > _MOST_DEPTH:
            raise ValueError(f"it is nested more than {_MOST_DEPTH} levels deep")
        json.dumps(value, ensure_ascii=False).encode()  # half a character, such as "\\ud800", is not text
    except (ValueError, RecursionError) as error:
        raise StudioError(
            f"{where}: this is not JSON that can be read ({str(error)[:200]}).", "Correct it.", code="not-json"
        ) from error
    return value


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= _MOST_DEPTH:
        level = [
            inner
            for part in level
            if isinstance(part, dict | list)
            for inner in (part.values() if isinstance(part, dict) else part)
        ]
        depth += 1
    return depth


def _json_lines(text: str, name: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{name}, line {number}"
            yield where, parse_json(line, where)


def _json_list(text: str, name: str) -> Iterator[tuple[str, Any]]:
    if not text.strip():
        return
    value = parse_json(text, name)
    if isinstance(value, dict) and isinstance(value.get("prompts"), list):
        value = value["prompts"]
    rows = value if isinstance(value, list) else [value]
    yield from ((f"{name}, item {number}", row) for number, row in enumerate(rows, 1))


def _table(text: str, name: str) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            cells = {key.strip().lower(): value for key, value in row.items() if isinstance(key, str) and value}
            where = f"{name}, line {reader.line_num}"
            if any(len(value) > _LONGEST_CELL for value in cells.values()):
                raise csv.Error(f"a cell is longer than {_LONGEST_CELL:,} characters")
            if "tags" in cells:
                cells["tags"] = cells["tags"].split(";")
            for field in ("check", "messages"):
                if field in cells:
                    cells[field] = parse_json(cells[field], where)
            if cells:
                yield where, cells
    except csv.Error as error:
        raise StudioError(f"{name}, line {reader.line_num}: {error}.", "Correct the line.", code="not-csv") from error


def _lines(text: str, name: str) -> Iterator[tuple[str, Any]]:
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    yield from ((f"{name}, line {number}", line) for number, line in lines if line)
