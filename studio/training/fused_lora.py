"""LoRA's forward and backward pass in one autograd function a layer: fewer passes over memory, the same numbers.

PEFT computes ``W x + scale * B (A x)`` with a tensor of the layer's output size for each of the product, its scaling
and the sum. Here the low-rank product is added in place (``addmm_``), the scale is folded into ``B``, and only ``x``
and ``A x`` are kept for the backward pass. The order of the products is the one of LoRA's paper
(https://arxiv.org/abs/2106.09685); doing it by hand for speed is Unsloth's idea.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


class _LoraLinear(torch.autograd.Function):
    """``x`` (tokens, in), ``weight`` (out, in), ``a`` (r, in), ``b`` (out, r) -> (tokens, out)."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: Any, a: torch.Tensor, b: torch.Tensor, scale: float
    ):
        scaled_b = (b * scale).to(x.dtype)
        low_a = a.to(x.dtype)
        low = x @ low_a.t()
        out = functional.linear(x, weight, bias).addmm_(low, scaled_b.t())
        ctx.save_for_backward(x, low, weight, low_a, scaled_b)
        ctx.scale, ctx.dtypes = scale, (a.dtype, b.dtype)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor):
        x, low, weight, a, scaled_b = ctx.saved_tensors
        grad_low = grad @ scaled_b
        grad_x = (grad @ weight).addmm_(grad_low, a) if ctx.needs_input_grad[0] else None
        grad_a = (grad_low.t() @ x).to(ctx.dtypes[0])
        grad_b = (grad.t() @ low).mul_(ctx.scale).to(ctx.dtypes[1])
        return grad_x, None, None, grad_a, grad_b, None


def fuse_lora(model: torch.nn.Module) -> int:
    """Let every plain LoRA layer of a PEFT model train through the fused function; returns how many.

    Left to PEFT: quantised layers, dropout, DoRA and other variants, a bias in the adapter, several active adapters,
    and everything outside training (evaluation, generation, merged weights).
    """
    from peft.tuners.lora.layer import Linear

    count = 0
    for module in model.modules():
        if type(module) is Linear and _is_plain(module):
            module.forward = _forward(module)
            count += 1
    return count


def _is_plain(layer: Any) -> bool:
    names = layer.active_adapters
    if len(names) != 1 or names[0] not in layer.lora_A or type(layer.base_layer) is not torch.nn.Linear:
        return False
    name = names[0]
    return (
        name not in layer.lora_variant
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and not layer.base_layer.weight.requires_grad
    )


def _forward(layer: Any) -> Any:
    original, name = layer.forward, layer.active_adapters[0]

    def forward(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        plain = layer.training and not (arguments or options or layer.disable_adapters or layer.merged)
        if not plain or x.dtype != layer.base_layer.weight.dtype or torch.is_autocast_enabled(x.device.type):
            return original(x, *arguments, **options)
        base = layer.base_layer
        flat = x.reshape(-1, x.shape[-1])
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        out = _LoraLinear.apply(flat, base.weight, base.bias, a, b, layer.scaling[name])
        return out.view(*x.shape[:-1], out.shape[-1])

    return forward
