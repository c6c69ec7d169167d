"""The devices that runs are trained on: one run at a time on each GPU, or on the CPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from studio.recipe import Recipe

CPU = "cpu"


def visible_devices() -> tuple[str, ...]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them, and ``cpu`` behind them.

    Of a GPU that is partitioned (MIG) its partitions are taken, by their ids. Where ``CUDA_VISIBLE_DEVICES`` is set,
    its word counts.
    """
    set_ones = os.environ.get("CUDA_VISIBLE_DEVICES")
    if set_ones is not None:
        named = [name.strip() for name in set_ones.split(",") if name.strip()]
        if "-1" in named:  # CUDA stops reading there
            named = named[: named.index("-1")]
        return (*(named if _listing() else []), CPU)
    return (*listed(_listing()), CPU)


def listed(listing: str) -> list[str]:
    """The GPUs and partitions in what ``nvidia-smi -L`` prints."""
    found: list[str] = []
    for line in listing.splitlines():
        if gpu := re.match(r"GPU (\d+):", line):
            found.append(gpu[1])
        elif part := re.search(r"\bMIG\b.*\(UUID: (MIG-[^)]+)\)", line):
            if found and found[-1].isdigit():
                found.pop()  # the whole GPU cannot be used beside its partitions
            found.append(part[1])
    return found


def _listing() -> str:
    tool = shutil.which("nvidia-smi")
    if not tool:
        return ""
    try:
        return subprocess.run(
            [tool, "-L"], capture_output=True, text=True, errors="replace", timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):  # a driver that does not answer: no GPU
        return ""


def chosen(recipe: Recipe, free: list[str], gpus: int) -> list[str] | None:
    """The devices that a run takes of those that are free, or None if it has to wait.

    A run that wants more GPUs than there are gets them all: its worker says what is missing.

    Args:
        gpus: how many the machine has, free or not.
    """
    if recipe.train.device == "cpu" or not gpus:
        return [CPU] if CPU in free else None
    own = [name for name in free if name != CPU]
    count = min(recipe.train.num_processes, gpus)
    return own[:count] if len(own) >= count else None


def environment(devices: list[str]) -> dict[str, str]:
    """What tells a worker its devices; a run on the CPU is to leave the GPUs alone."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(name for name in devices if name != CPU)}
