"""The trained numbers of a checkpoint whose PEFT file has less than a resume needs.

PEFT writes AdaLoRA without the directions that are pruned just now, and of methods with virtual tokens only the vectors
that come out at the end, not the network that makes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from studio.errors import StudioError
from studio.training import adalora

_FILE = "trained.pt"


def is_needed(model: Any) -> bool:
    """Whether PEFT's own file would not do."""
    configs = getattr(model, "peft_config", {}).values()
    return any(config.is_prompt_learning or config.peft_type == "ADALORA" for config in configs)


def save(model: Any, folder: Path) -> None:
    """Write every trained number of a model into a checkpoint."""
    state: dict[str, Any] = {"parameters": {n: p.detach().cpu() for n, p in _trained(model)}}
    if adalora.is_adalora(model):
        state["adalora"] = adalora.averages(model)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / _FILE)


def load(model: Any, folder: Path) -> None:
    """Put back what :func:`save` wrote.

    Raises:
        StudioError: weights of the model are missing from it.
    """
    device = next(model.parameters()).device
    state = torch.load(folder / _FILE, map_location=device, weights_only=True)
    saved = state["parameters"]
    missing = [
        name for name, parameter in _trained(model) if getattr(saved.get(name), "shape", None) != parameter.shape
    ]
    if missing:
        raise StudioError(
            f"{_FILE} of {folder.name} lacks {len(missing)} weights, or has them in another shape: {missing[0]}.",
            "Its files are damaged: restore them from a copy, or train again.",
            code="weights_missing",
        )
    with torch.no_grad():
        for name, parameter in _trained(model):
            parameter.copy_(saved[name])
    if adalora.is_adalora(model):
        adalora.set_averages(model, state["adalora"])


def _trained(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
