"""AdaLoRA's part in the training loop: its pruning after each step, its penalty, and its state in the checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback

_AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


def is_adalora(model: Any) -> bool:
    """Whether a model trains AdaLoRA."""
    return any(config.peft_type == "ADALORA" for config in getattr(model, "peft_config", {}).values())


class PruneCallback(TrainerCallback):
    """Moves rank to where it helps, while the step's gradients are still there (https://arxiv.org/abs/2303.10512)."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        model.base_model.update_and_allocate(state.global_step)


def penalty(model: Any) -> torch.Tensor:
    """How far the directions of the layers are from standing at right angles, weighted as PEFT does in its forward
    pass, which here computes no loss. A scalar."""
    base = model.base_model
    name = base.trainable_adapter_name
    far = []
    for parameter_name, p in base.model.named_parameters():
        if name in parameter_name and ("lora_A" in parameter_name or "lora_B" in parameter_name):
            product = p @ p.T if "lora_A" in parameter_name else p.T @ p
            far.append(torch.linalg.norm(product - torch.eye(len(product), device=p.device, dtype=p.dtype)))
    return base.peft_config[name].orth_reg_weight * torch.stack(far).mean()


def averages(model: Any) -> dict[str, Any]:
    """The running averages that ranks are moved by, and the ranks as they are, for a checkpoint."""
    allocator = model.base_model.rankallocator
    kept = {name: getattr(allocator, name) for name in _AVERAGES}
    return {**kept, "rank_pattern": model.peft_config[model.active_adapter].rank_pattern}


def set_averages(model: Any, kept: dict[str, Any]) -> None:
    """Put back what :func:`averages` gave."""
    model.peft_config[model.active_adapter].rank_pattern = kept["rank_pattern"]
    for name in _AVERAGES:
        setattr(model.base_model.rankallocator, name, kept[name])
