"""LoRA's forward and backward pass in one autograd function a layer: fewer passes over memory, the same numbers.

PEFT computes ``W x + scale * B (A x)`` with a tensor of the layer's output size for each of the product, its scaling
and the sum. Here the low-rank product is added in place (``addmm_``), the scale is folded into ``B``, and only ``x``
and ``A x`` are kept for the backward pass. The order of the products is the one of LoRA's paper
(https://arxiv.org/abs/2106.09685); doing it by hand for speed is Unsloth's idea.

DoRA (https://arxiv.org/abs/2402.09353) divides by the length of each row of ``W + scale * B A``. PEFT builds that
matrix for it, from an identity matrix. Here the lengths come from the square's three parts, ``|W|^2 +
2 scale B (W A')' + scale^2 B (A A') B'``, of which the first never changes. Nothing larger than ``A`` and ``B`` is
made.
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
        grad_b = (low.t() @ grad).mul_(ctx.scale).t().to(ctx.dtypes[1])
        return grad_x, None, None, grad_a, grad_b, None


class _DoraLinear(torch.autograd.Function):
    """As :class:`_LoraLinear`, times ``magnitude`` (out,) over the rows' ``lengths`` (out,), which get no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: Any,
        a: torch.Tensor,
        b: torch.Tensor,
        magnitude: torch.Tensor,
        lengths: torch.Tensor,
        scale: float,
    ):
        scaled_b = (b * scale).to(x.dtype)
        low_a = a.to(x.dtype)
        low = x @ low_a.t()
        plain = functional.linear(x, weight).addmm_(low, scaled_b.t())
        factor = (magnitude / lengths).to(x.dtype)
        out = plain * factor if bias is None else torch.addcmul(bias, plain, factor)
        ctx.save_for_backward(x, low, plain, weight, low_a, scaled_b, factor, lengths)
        ctx.scale, ctx.dtypes = scale, (a.dtype, b.dtype, magnitude.dtype)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor):
        x, low, plain, weight, a, scaled_b, factor, lengths = ctx.saved_tensors
        of_magnitude = (grad * plain).sum(0, dtype=torch.float32) / lengths
        grad = grad * factor
        grad_low = grad @ scaled_b
        grad_x = (grad @ weight).addmm_(grad_low, a) if ctx.needs_input_grad[0] else None
        grad_a = (grad_low.t() @ x).to(ctx.dtypes[0])
        grad_b = (low.t() @ grad).mul_(ctx.scale).t().to(ctx.dtypes[1])
        return grad_x, None, None, grad_a, grad_b, of_magnitude.to(ctx.dtypes[2]), None, None


def fuse_lora(model: torch.nn.Module) -> int:
    """Let every plain LoRA or DoRA layer of a PEFT model train through the fused function; returns how many.

    Left to PEFT: quantised layers, dropout, other variants, a bias in the adapter, several active adapters, and
    what is outside training (evaluation, generation, merged weights), but for DoRA's evaluation, which is as costly.
    """
    from peft.tuners.lora.layer import Linear

    count = 0
    for module in model.modules():
        if type(module) is Linear and _is_plain(module):
            module.forward = _dora_forward(module) if module.lora_variant else _forward(module)
            count += 1
    return count


def _is_plain(layer: Any) -> bool:
    from peft.tuners.lora.variants import DoraLinearVariant

    names = layer.active_adapters
    if len(names) != 1 or names[0] not in layer.lora_A or type(layer.base_layer) is not torch.nn.Linear:
        return False
    name = names[0]
    return (
        type(layer.lora_variant.get(name)) in (type(None), DoraLinearVariant)
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and not layer.base_layer.weight.requires_grad
    )


def _forward(layer: Any) -> Any:
    original, name = layer.forward, layer.active_adapters[0]

    def forward(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if not layer.training or arguments or options or not _applies(layer, x):
            return original(x, *arguments, **options)
        base = layer.base_layer
        flat = x.reshape(-1, x.shape[-1])
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        out = _LoraLinear.apply(flat, base.weight, base.bias, a, b, layer.scaling[name])
        return out.view(*x.shape[:-1], out.shape[-1])

    return forward


def _dora_forward(layer: Any) -> Any:
    original, name = layer.forward, layer.active_adapters[0]
    squares = None  # of the base's rows, once it is on its device

    def forward(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal squares
        if arguments or options or not _applies(layer, x):
            return original(x, *arguments, **options)
        base, scale = layer.base_layer, layer.scaling[name]
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        if squares is None or squares.device != x.device:
            squares = torch.linalg.vector_norm(base.weight.detach(), dim=1, dtype=torch.float32).square()
        lengths = row_lengths(base.weight, squares, a.detach(), b.detach(), scale)
        flat = x.reshape(-1, x.shape[-1])
        magnitude = layer.lora_magnitude_vector[name].weight
        out = _DoraLinear.apply(flat, base.weight, base.bias, a, b, magnitude, lengths, scale)
        return out.view(*x.shape[:-1], out.shape[-1])

    return forward


def row_lengths(
    weight: torch.Tensor, squares: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float
) -> torch.Tensor:
    """The length of each row of ``weight + scale * b @ a``, rounded to the weight's format as PEFT does, in float32.

    Args:
        weight: (out, in); a: (r, in); b: (out, r).
        squares: (out,), those of the weight's rows, in float32.
    """
    a, b = a.float(), b.float() * scale
    crossed = ((weight.detach() @ a.t().to(weight.dtype)).float() * b).sum(1)
    own = ((b @ (a @ a.t())) * b).sum(1)
    return (squares + 2 * crossed + own).clamp(min=0).sqrt().to(weight.dtype).float()


def _applies(layer: Any, x: torch.Tensor) -> bool:
    """Whether the adapter is on, and everything is in the base's number format."""
    off = layer.disable_adapters or layer.merged
    return not off and x.dtype == layer.base_layer.weight.dtype and not torch.is_autocast_enabled(x.device.type)
