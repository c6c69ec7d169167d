"""The header of a GGUF file, walked without building anything: its counts and lengths must fit into the file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from studio.errors import StudioError

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes by the type of a value
_STRING, _ARRAY = 8, 9
_MOST_VALUES, _MOST_TENSORS, _MOST_ITEMS = 10_000, 100_000, 4_000_000
_MOST_KEY = 65_535
_MOST_DIMENSIONS = 8


class _Broken(Exception):
    """The header says what cannot be."""


def check_header(path: Path) -> None:
    """Refuse a file whose header cannot be that of a GGUF file.

    Raises:
        StudioError: code ``gguf_broken``.
    """
    try:
        with path.open("rb") as file:
            _walk(file, path.stat().st_size)
    except (_Broken, struct.error) as error:
        reason = str(error) if isinstance(error, _Broken) else "its header is cut off"
        raise StudioError(
            f"{path.name} is not a whole GGUF file: {reason}.",
            "Download it again, or choose another file.",
            field="model.id",
            code="gguf_broken",
        ) from error


def _walk(file: BinaryIO, size: int) -> None:
    if file.read(4) != b"GGUF":
        raise _Broken("it does not begin as one")
    (version,) = struct.unpack("<I", file.read(4))
    if version not in (2, 3):
        raise _Broken(f"its version is {version}, and 2 and 3 are read")
    tensors, values = struct.unpack("<QQ", file.read(16))
    if values > _MOST_VALUES or tensors > _MOST_TENSORS:
        raise _Broken(f"its header counts {tensors:,} tensors and {values:,} values")
    for _ in range(values):
        _skip_text(file, size, _MOST_KEY)
        _skip_value(file, size, struct.unpack("<I", file.read(4))[0])
    for _ in range(tensors):
        _skip_text(file, size, _MOST_KEY)
        (dimensions,) = struct.unpack("<I", file.read(4))
        if dimensions > _MOST_DIMENSIONS:
            raise _Broken(f"a tensor has {dimensions:,} dimensions")
        struct.unpack(f"<{dimensions}QIQ", file.read(8 * dimensions + 12))


def _skip_text(file: BinaryIO, size: int, most: int) -> None:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > most:
        raise _Broken(f"a text in its header has {length:,} bytes")
    _skip(file, size, length)


def _skip_value(file: BinaryIO, size: int, kind: int) -> None:
    if kind in _SIZES:
        _skip(file, size, _SIZES[kind])
    elif kind == _STRING:
        _skip_text(file, size, size)
    elif kind == _ARRAY:
        inner, count = struct.unpack("<IQ", file.read(12))
        if count > _MOST_ITEMS:
            raise _Broken(f"a list in its header has {count:,} items")
        if inner in _SIZES:
            _skip(file, size, _SIZES[inner] * count)
        elif inner == _STRING:
            for _ in range(count):
                _skip_text(file, size, size)
        else:
            raise _Broken("a list in its header holds values of no known type")
    else:
        raise _Broken(f"a value in its header is of the unknown type {kind}")


def _skip(file: BinaryIO, size: int, count: int) -> None:
    if file.tell() + count > size:
        raise _Broken("its header says more than the file holds")
    file.seek(count, 1)
