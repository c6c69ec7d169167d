"""What kind of processor this is, and what follows from it: the number format, the attention kernel, the threads.

These choices change results in their last digits. They follow from what the processor can do, never from a measurement
of how long something takes, so that the same recipe gives the same numbers whatever else the machine is doing.
"""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path
from typing import Any

from studio.thread_waiting import MKL_MODE

_CPU_INFO = Path("/proc/cpuinfo")
_GROUPS = Path("/sys/fs/cgroup")
_NAMED = ("amx_bf16", "avx512_bf16", "avx512_fp16", "bf16")  # what the choices below look at, and what MKL does


def processor_name() -> str:
    """The model of the processor with the instructions that torch uses: runs with the same one give the same bits."""
    import torch

    found = platform.processor() or platform.machine()
    if _CPU_INFO.exists():
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
        names = (line.split(":", 1)[1].strip() for line in lines if line.lower().startswith("model name"))
        found = next(names, found)
    able = [name for name in _NAMED if capabilities().get(name)]
    mode = os.environ.get(MKL_MODE)
    mkl = [f"MKL {mode}"] if mode and torch.backends.mkl.is_available() else []
    return ", ".join([found, torch.backends.cpu.get_cpu_capability(), *able, *mkl])


def capabilities() -> dict[str, Any]:
    """Names of instruction sets, and whether this processor has them."""
    import torch

    return dict(torch.cpu.get_capabilities())


def computes_bfloat16() -> bool:
    """Return whether matrix products in bfloat16 are faster than in float32 (docs/benchmarks.md has the measurements).

    With AMX they are many times as fast. With AVX512-BF16 alone they take about half of the time on AMD's processors,
    and 1.6 times the time on Intel's. Without either, torch converts each block to float32 and back.
    """
    able = capabilities()
    return bool(able.get("amx_bf16") or able.get("bf16") or (able.get("avx512_bf16") and vendor() == "AuthenticAMD"))


def vendor() -> str:
    """Return who made the processor, as its ``cpuid`` instruction names it; empty where that is not known."""
    if not _CPU_INFO.exists():
        return ""
    lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")), "")


def widens_attention() -> bool:
    """Whether attention over half-precision rows is faster in float32: everywhere but with AMX. PyTorch's kernel
    converts each block of its small products on its own (docs/benchmarks.md has the times)."""
    return not capabilities().get("amx_bf16")


def allowed_cores() -> int:
    """The cores that this process may use, by its affinity and by the limit of its control group."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _core_limit()
    return max(1, min(cores, math.ceil(limit))) if limit else cores


def _core_limit() -> float | None:
    """How many cores' time the control group of this process may take; None without a limit."""
    try:
        quota, period = (_GROUPS / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):  # version 1, or no control groups
        try:
            quota, period = (
                (_GROUPS / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="ascii").strip()
                for name in ("quota", "period")
            )
        except OSError:
            return None
    try:
        return int(quota) / int(period) if int(quota) > 0 else None
    except (ValueError, ZeroDivisionError):  # the word max
        return None


def asked_threads() -> int | None:
    """How many threads the user has asked for in the environment, if at all."""
    value = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(value) if value.isdigit() and int(value) else None


def settle_threads(kept: int | None = None) -> int:
    """Set how many threads an operation of torch has, and return it.

    Args:
        kept: the number with which a run began; the user's ``OMP_NUM_THREADS`` goes before it. None takes what torch
            takes, and no more than the allowed cores.
    """
    import torch

    if not asked_threads():
        torch.set_num_threads(kept or min(torch.get_num_threads(), allowed_cores()))
    return torch.get_num_threads()


def computing(model: Any) -> dict[str, Any]:
    """How a loaded model computes, to be kept beside what it says: ``{"device", "processor", "dtype", "attention",
    "threads"}``."""
    import torch

    return {
        "device": str(model.device),
        "processor": processor_name(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": getattr(model.config, "_attn_implementation", None),
        "threads": torch.get_num_threads(),
    }
