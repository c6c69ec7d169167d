"""What a folder of weights holds, read from the safetensors headers alone (a few kilobytes a file)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

from studio.errors import StudioError

BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64", "I8": "int8", "U8": "uint8"}


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
                if length > 100_000_000:
                    raise ValueError("the header is too long")
                header = json.loads(stream.read(length))
            end = max((v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"), default=0)
            if path.stat().st_size < 8 + length + end:
                raise ValueError("the file is cut short")
            for name, value in header.items():
                if name != "__metadata__":
                    found[name] = Tensor(value["dtype"], tuple(value["shape"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StudioError(f"{path} is broken: {error}.", "Download or copy it again.", "model.id") from error
    return found


def read_config(folder: Path) -> dict:
    """config.json of a model folder.

    Raises:
        StudioError: it is missing or is not a JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StudioError(f"{folder} has no config.json.", "Choose a folder that save_pretrained wrote.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StudioError(f"{path} is not JSON.", "Copy it again.", field="model.id") from error
    if not isinstance(config, dict):
        raise StudioError(f"{path} is not a JSON object.", "Copy it again.", field="model.id")
    return config
