"""What the driver says about the GPU while it trains."""

from __future__ import annotations

import torch


def gpu_state(device: str) -> dict[str, int]:
    """``gpu_utilization`` (percent of the last moments in which it computed) and ``gpu_temperature`` (degrees Celsius).

    What cannot be told is left out: on another device than CUDA, without NVIDIA's management library (the package
    ``nvidia-ml-py``), or where the driver does not let this process ask.
    """
    if device != "cuda":
        return {}
    try:
        import pynvml
    except ImportError:
        return {}
    found = {}
    for name, ask in (("gpu_utilization", torch.cuda.utilization), ("gpu_temperature", torch.cuda.temperature)):
        try:
            found[name] = int(ask())
        except (pynvml.NVMLError, RuntimeError):  # one sensor of this card may be silent, or the library have no driver
            continue
    return found
