"""Checkpoints: put in their place whole, and which of them a run goes on from."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

ASIDE = ".part"  # the folder beside the checkpoints in which the next one is written


def put_in_place(folder: Path, name: str) -> None:
    """Move a checkpoint that was written aside to where it is looked for, after all of it has reached the disk.

    Without this, a power cut could leave a file that has its name and its length and not its content.
    """
    aside, target = folder / ASIDE / name, folder / name
    for path in [*(p for p in aside.rglob("*") if p.is_file()), aside]:
        _sync(path)
    if target.exists():  # of a run that was resumed from an older one
        shutil.rmtree(target)
    aside.rename(target)
    _sync(folder)
    shutil.rmtree(folder / ASIDE)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def last_whole(folder: Path) -> Path | None:
    """The newest checkpoint that has everything a resume needs, or None."""
    for name in checkpoint_names(folder):
        if _is_whole(folder / name):
            return folder / name
    return None


def checkpoint_names(folder: Path) -> list[str]:
    """The names of all checkpoints, whole or not, newest first."""
    try:
        names = [name for name in os.listdir(folder) if re.fullmatch(r"checkpoint-\d{1,18}", name)]
    except OSError:  # there are none
        return []
    return sorted(names, key=lambda name: int(name.rpartition("-")[2]), reverse=True)


def _is_whole(path: Path) -> bool:
    """Whether every file is there and none was torn; a power cut may leave files that end too early."""
    if not all((path / name).is_file() for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt")):
        return False
    weights, states = list(path.glob("*.safetensors")), [*path.glob("*.pt"), *path.glob("*.pth")]
    if not weights or not any(path.glob("rng_state*.pth")):
        return False
    try:
        json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        for file in weights:
            with safe_open(file, framework="numpy"):  # checks the length against the header
                pass
    except (ValueError, RecursionError, OSError, SafetensorError):
        return False
    return all(zipfile.is_zipfile(file) for file in states)  # as torch writes them: their directory is at the end
