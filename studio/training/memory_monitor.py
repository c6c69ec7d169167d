"""What a run may take of memory, what it was expected to take and what it took: measured in the worker, written into
its events, so that the reason is known also where the worker is killed."""

from __future__ import annotations

import ctypes
import gc
import json
import shutil
import threading
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.models.memory_estimate import Estimate, estimate
from studio.recipe import Recipe
from studio.runs import EventLog
from studio.training.run_estimate import with_events

GB = 10**9  # as the page counts
_LOOK_SECONDS = 0.5
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # of malloc.h
_MMAP_BYTES, _MMAP_BYTES_QUANTISED = 4 << 20, 1 << 20  # of a tensor that comes from the system
_MARKS = (0.5, 0.7, 0.85, 0.95)  # shares of the free main memory at which the worker writes down what it holds


def give_back_at_once(quantised: bool = False) -> bool:
    """Let large tensors come from the system and go back to it, one by one, and the end of the heap, too.

    glibc would otherwise put blocks of up to 32 MB into its heap, once one of such a size was freed. Activations of
    many sizes leave holes there, so that a lower bound saves memory, and costs time: each page that the system gives is
    cleared first. This bound is where most of the saving is left and little of the cost (docs/benchmarks.md). Beside
    ``quantised`` weights it is lower: each matrix is unpacked again and again between smaller tensors, and who packs
    weights does it for the memory. Returns whether this C library could be told so.
    """
    try:
        tell = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False  # another C library
    bound = _MMAP_BYTES_QUANTISED if quantised else _MMAP_BYTES
    return tell(_M_MMAP_THRESHOLD, bound) == 1 and tell(_M_TRIM_THRESHOLD, 64 << 20) == 1


class Memory:
    """The memory of one worker.

    Before the weights are loaded :meth:`expect` writes a ``memory`` event (``device``, ``dtype``, ``longest_tokens``,
    ``held_bytes``: what the libraries and the data hold, ``estimated_memory_bytes``, ``available_bytes``: what the
    model and the training may take, ``free_bytes`` of the main memory), and sets the recipe's limit. A thread writes
    another one (``memory_bytes``) whenever the process has taken more than a share of the free main memory: a worker
    that the system ends has no last word.
    """

    def __init__(self, log: EventLog):
        self._log = log
        self._soft: int | None = None
        self._done = threading.Event()
        self.expected: dict[str, Any] = {}
        self._estimate: Estimate | None = None

    def expect(self, recipe: Recipe, base: Path, device: str, dtype: str, longest: int) -> None:
        """Write down what the run is expected to take for its longest row, and keep it to ``train.memory_limit_gb``."""
        from studio.models.machine import main_memory

        free = main_memory()["free_bytes"]
        room = self._limit(recipe.train.memory_limit_gb, device, free)
        self._estimate = _estimate(recipe, base, device, dtype, longest)
        self.expected = {
            "device": device,
            "dtype": dtype,
            "longest_tokens": longest,
            "held_bytes": held_bytes(device),
            "estimated_memory_bytes": self._estimate.memory_bytes["total"] if self._estimate else None,
            "available_bytes": room,
        }
        self._log.write("memory", **self.expected, free_bytes=free)
        self._base, self._device = base, device
        threading.Thread(target=self._watch, args=(resident_bytes(), free), name="memory", daemon=True).start()

    def of(self, recipe: Recipe) -> int | None:
        """The estimate in bytes of another recipe on the same model and rows."""
        found = _estimate(recipe, self._base, self._device, self.expected["dtype"], self.expected["longest_tokens"])
        return found.memory_bytes["total"] if found else None

    def disk(self, folder: Path, steps: int) -> int | None:
        """Bytes that the run will take of the disk at most; warns if they are not free where its folder is."""
        if self._estimate is None:
            return None
        wanted = with_events(self._estimate.disk_bytes, steps)["total"]
        free = shutil.disk_usage(folder).free
        if free < wanted:
            self._log.write(
                "warning",
                what=f"The run takes up to {wanted / GB:.1f} GB of the disk, and {free / GB:.1f} GB are free.",
                fix="Free some, lower train.save_total_limit, or keep the workspace on a larger disk (STUDIO_HOME).",
                step=0,
            )
        return wanted

    def _limit(self, limit_gb: float, device: str, free: int) -> int:
        """Set the limit, and say how many bytes the model and the training can have."""
        wanted = int(limit_gb * GB)
        if device == "cuda":
            import torch

            total = torch.cuda.get_device_properties(0).total_memory
            room = torch.cuda.mem_get_info()[0]
            if wanted:
                torch.cuda.set_per_process_memory_fraction(min(1.0, wanted / total))
            return min(room, wanted) if wanted else room
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        data = _data_bytes()
        if wanted:
            self._soft = soft
            bound = data + wanted if soft == resource.RLIM_INFINITY else min(soft, data + wanted)
            resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
            soft = bound
        return free if soft == resource.RLIM_INFINITY else min(free, max(0, soft - data))

    def _watch(self, before: int, free: int) -> None:
        marks = list(_MARKS)
        while marks and not self._done.wait(_LOOK_SECONDS):
            now = resident_bytes()
            if now - before < marks[0] * free:
                continue
            while marks and now - before >= marks[0] * free:
                marks.pop(0)
            if not self._done.is_set():
                self._log.write("memory", memory_bytes=now)

    def close(self) -> None:
        """Watch no longer, and lift the limit that was set: what ends the run needs memory too."""
        self._done.set()
        if self._soft is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_DATA, (self._soft, resource.getrlimit(resource.RLIMIT_DATA)[1]))
            self._soft = None
        gc.collect()

    def taken(self, device: str) -> dict[str, int]:
        """``peak_memory_bytes`` of the whole process, and ``run_memory_bytes`` of it for model and training."""
        peak = peak_memory_bytes(device)
        held = self.expected.get("held_bytes", 0)
        return {"peak_memory_bytes": peak, "run_memory_bytes": max(0, peak - held)}

    def failed(self) -> dict[str, Any]:
        """The fields of a ``failed`` event of a run that ran out of memory."""
        known = {name: value for name, value in self.expected.items() if name != "held_bytes"}
        return {"reason": "out_of_memory", **self.taken(known.get("device", "cpu")), **known}


def _estimate(recipe: Recipe, base: Path, device: str, dtype: str, longest: int) -> Estimate | None:
    """The estimate; None for an architecture that is not known."""
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        return estimate(recipe, config, device=device, dtype=dtype, length=longest, folder=base)
    except StudioError:
        return None


def peak_memory_bytes(device: str) -> int:
    """Largest memory so far: what the GPU's allocator held, or this process's resident set on a CPU."""
    import resource

    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def held_bytes(device: str) -> int:
    """What is held now: on a CPU of its memory, on a GPU what the allocator has."""
    if device == "cuda":
        import torch

        return torch.cuda.memory_allocated()
    return resident_bytes()


def resident_bytes() -> int:
    """Main memory that this process holds."""
    import psutil

    return psutil.Process().memory_info().rss


def _data_bytes() -> int:
    """What counts against ``RLIMIT_DATA``: private writable memory that is mapped, whether it is used or not."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
