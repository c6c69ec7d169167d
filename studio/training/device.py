"""The device that a run trains on."""

from __future__ import annotations

from studio.errors import StudioError


def pick_device(wanted: str) -> str:
    """``cuda`` or ``cpu``; ``auto`` takes the GPU if there is one.

    Raises:
        StudioError: a GPU is asked for and there is none.
    """
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise StudioError(
            "The recipe asks for a CUDA GPU and this machine has none that PyTorch can use.",
            "Set train.device to auto or cpu.",
            field="train.device",
        )
    return "cuda" if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()) else "cpu"


def device_name(device: str) -> str:
    """Return the human-readable name of a device."""
    import torch

    return torch.cuda.get_device_name(0) if device == "cuda" else "CPU"
