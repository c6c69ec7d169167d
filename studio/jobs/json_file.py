"""Small JSON files of a run's folder, read without trust: anybody may have damaged them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_LARGEST = 1 << 24  # bytes


def read_json(path: Path) -> dict[str, Any] | None:
    """The mapping that a file holds; None if there is no such file, or none that can be read."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        found = json.loads(data) if len(data) <= _LARGEST else None
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
