"""What a folder of weights holds, read from the safetensors headers alone (a few kilobytes a file)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from studio.errors import StudioError
from studio.models.config_bounds import check_config

BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64", "I8": "int8", "U8": "uint8"}

_MOST_JSON = 8 << 20  # bytes of a JSON file of a model, a tokenizer aside
_MOST_HEADER = 32 << 20  # bytes of a file's header; a model of 90,000 tensors has 14 MB in all of its files
_MOST_SIDE = 1 << 26  # of a tensor
_MOST_TENSORS = 400_000


class Tensor(NamedTuple):
    dtype: str  # as safetensors writes it: BF16, F32
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)


def read_headers(folder: Path) -> dict[str, Tensor]:
    """Name to :class:`Tensor` for all safetensors files of a model; empty if it has none.

    Raises:
        StudioError: a file is cut or is not in safetensors format.
    """
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                if length > _MOST_HEADER:
                    raise ValueError("the header is too long")
                header = json.loads(stream.read(length))
            end = max((v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"), default=0)
            if path.stat().st_size < 8 + length + end:
                raise ValueError("the file is cut short")
            for name, value in header.items():
                if name != "__metadata__":
                    found[name] = _tensor(value)
            if len(found) > _MOST_TENSORS:
                raise ValueError("there are too many tensors")
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            reason = str(error)[:200]
            raise StudioError(f"{path} is broken: {reason}.", "Download or copy it again.", "model.id") from error
    return found


def _tensor(value: dict[str, Any]) -> Tensor:
    dtype, shape = value["dtype"], tuple(value["shape"])
    if not isinstance(dtype, str) or len(dtype) > 20 or len(shape) > 8:
        raise ValueError("a tensor has no known format")
    if not all(type(side) is int and 0 <= side <= _MOST_SIDE for side in shape):
        raise ValueError("a tensor has no possible shape")
    return Tensor(dtype, shape)


def read_config(folder: Path) -> dict:
    """config.json of a model folder, with its sizes within bounds.

    Raises:
        StudioError: it is missing, is not a JSON object, or holds sizes that no model has.
    """
    path = folder / "config.json"
    config = read_json(path, missing=None)
    if config is None:
        raise StudioError(f"{folder} has no config.json.", "Choose a folder that save_pretrained wrote.")
    if not isinstance(config, dict):
        raise StudioError(f"{path} is not a JSON object.", "Copy it again.", field="model.id")
    check_config(config, str(path))
    return config


_RAISE = object()


def read_json(path: Path, *, missing: Any, broken: Any = _RAISE, most_bytes: int = _MOST_JSON) -> Any:
    """The value in a JSON file that may come from anybody.

    Args:
        missing: what is returned where there is no such file.
        broken: what is returned where it is not JSON; without it, that is an error.
        most_bytes: a longer file is taken as broken, unread.

    Raises:
        StudioError: it is not JSON, is nested too deep or too long.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise ValueError(f"it is longer than {most_bytes >> 20} MB")
        return json.loads(content.decode("utf-8-sig"))
    except FileNotFoundError:
        return missing
    except (OSError, ValueError, RecursionError) as error:
        if broken is not _RAISE:
            return broken
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise StudioError(f"{path} is not JSON: {reason}.", "Copy it again.", field="model.id") from error
