"""Which checkpoint a run goes on from."""

from __future__ import annotations

import json
from pathlib import Path


def last_whole(folder: Path) -> Path | None:
    """The newest checkpoint that has everything a resume needs, or None."""
    found = [p for p in folder.glob("checkpoint-*") if p.is_dir() and p.name.removeprefix("checkpoint-").isdigit()]
    for path in sorted(found, key=lambda p: int(p.name.removeprefix("checkpoint-")), reverse=True):
        if _is_whole(path):
            return path
    return None


def _is_whole(path: Path) -> bool:
    needed = ("trainer_state.json", "optimizer.pt", "scheduler.pt")
    if not all((path / name).is_file() for name in needed) or not list(path.glob("*.safetensors")):
        return False
    try:
        json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True
