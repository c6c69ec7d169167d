"""What this machine has to train on, found out without torch."""

from __future__ import annotations

import shutil
import subprocess


def machine_memory() -> dict:
    """``{"device", "total_bytes", "free_bytes"}`` of the first NVIDIA GPU, or else of the main memory.

    ``device`` is the GPU's name or ``CPU``. Free main memory is what can be had without swapping, and no more than the
    container's limit leaves.
    """
    return _gpu() or main_memory()


def _gpu() -> dict | None:
    tool = shutil.which("nvidia-smi")
    if not tool:
        return None
    command = [tool, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=5, check=True).stdout
        name, total, free = (part.strip() for part in answer.strip().splitlines()[0].rsplit(",", 2))
        return {"device": name, "total_bytes": int(total) << 20, "free_bytes": int(free) << 20}
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):  # a driver that does not answer: no GPU
        return None


def main_memory() -> dict:
    """The main memory as :func:`machine_memory` gives it, also where there is a GPU."""
    import psutil

    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    limit, used = _container()
    if limit and limit < total:
        total, free = limit, min(free, max(0, limit - used))
    return {"device": "CPU", "total_bytes": total, "free_bytes": free}


def _container() -> tuple[int, int]:
    """The memory limit and use of this container's control group in bytes; (0, 0) without a limit."""
    values = []
    for name in ("memory.max", "memory.current"):
        try:
            with open(f"/sys/fs/cgroup/{name}", encoding="ascii") as file:
                values.append(int(file.read()))
        except (OSError, ValueError):  # no control groups, or the limit is the word max
            return 0, 0
    return values[0], values[1]
