"""Results as files of a run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from studio.errors import StudioError


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all.

    Raises:
        StudioError: the disk is full.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        aside.write_text(json.dumps(values, ensure_ascii=False, indent=1), encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise StudioError(f"{path} cannot be written: {error.strerror}.", "Free some disk space.") from error
