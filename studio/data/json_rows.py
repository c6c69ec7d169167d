"""JSON and JSON Lines to rows, object by object."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from studio.data.files import LONGEST_LINE, Row, lines_at, opened, opened_text, text_lines
from studio.data.scalars import WrittenFloat
from studio.errors import StudioError

_CHUNK = 1 << 20  # characters read at a time from a JSON file


class _RepeatedKey(ValueError):
    """An object names a key twice, so that one of its values would be lost."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise _RepeatedKey(f"duplicate key {repeated[:80]!r}")
    return values


_DECODER = json.JSONDecoder(parse_float=WrittenFloat, object_pairs_hook=_unique)


def one_object_a_line(path: Path) -> bool:
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
    except (ValueError, RecursionError):
        return False


def read_jsonl(path: Path, start: int) -> Iterator[Row]:
    found = start > 1
    for number, line in text_lines(path, start):
        if line.strip():
            yield _parsed(path, number, line)
            found = True
    if not found:
        raise StudioError(f"{path.name} holds no rows, only blank lines.", "Choose a file with at least one row.")


def jsonl_rows_at(path: Path, numbers: Iterable[int]) -> Iterator[Row]:
    """The rows on some lines of JSON Lines, in ascending order; the lines between them are not looked at."""
    for number, line in lines_at(path, numbers):
        if line.strip():
            yield _parsed(path, number, line)


def _parsed(path: Path, number: int, line: str) -> Row:
    try:
        values = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        column = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise StudioError(
            f"{path.name}, line {number}{column}: broken JSON ({_reason(error)}).",
            "Correct or remove that line; each line must be one whole JSON object.",
        ) from error
    return _object(path, number, values)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if "int_max_str_digits" in str(error):
        return "a number has more than 4,300 digits"
    return getattr(error, "msg", str(error))


def _object(path: Path, number: int, values: Any) -> Row:
    if not isinstance(values, dict):
        raise StudioError(
            f"{path.name}, line {number}: a {type(values).__name__} where a JSON object should be.",
            'Each row must be an object such as {"prompt": "...", "completion": "..."}.',
        )
    return Row(number, values)


def read_json(path: Path) -> Iterator[Row]:
    """A JSON array of objects, decoded object by object; or an object with one such array in it."""
    with opened_text(path) as file:
        first = _head(path, file)
    with opened_text(path) as file:
        if first == "[":
            yield from _array(path, file)
            return
        try:
            whole = _DECODER.decode(file.read())
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
    return StudioError(f"{path.name}, line {number}: broken JSON ({_reason(error)}).", "Correct the file at that line.")


def _array(path: Path, file) -> Iterator[Row]:
    decoder, buffer, position, line, number, ended = _DECODER, "", 0, 1, 0, False
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
        except json.JSONDecodeError as error:
            if ended or _really_broken(error, buffer):
                raise _broken(path, error, line + buffer.count("\n", position, error.pos)) from error
            buffer, position = buffer[position:], 0
            try:
                more = file.read(max(wanted, len(buffer)))  # doubling: a long object is parsed a few times, not often
            except UnicodeDecodeError as failure:
                raise _broken(path, failure) from failure
            buffer, ended = buffer + more, not more
            continue
        except (RecursionError, ValueError) as error:
            raise _broken(path, error, line) from error
        number += 1
        row = _object(path, line, value)
        yield Row(number, row.values)
        line += buffer.count("\n", position, end)
        position = end
    if not number:
        raise StudioError(f"{path.name} holds an empty list.", "Choose a file with at least one row.")


def _really_broken(error: json.JSONDecodeError, buffer: str) -> bool:
    """Whether more text cannot mend it: what is only cut off fails at the end of the buffer, or in an open string."""
    return not error.msg.startswith("Unterminated string") and error.pos < len(buffer) - 16


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
