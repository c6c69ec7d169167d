"""LoRA's forward and backward pass in one autograd function: fewer passes over memory, the same numbers.

PEFT computes ``W x + scale * B (A x)`` with a tensor of the layer's output size for each of the product, its scaling
and the sum. Here the low-rank product is added in place (``addmm_``), the scale is folded into ``B``, and only ``x``
and ``A x`` are kept for the backward pass. Layers that read the same tensor go through one function together, so that
their ``A`` are one matrix, and the gradients of what they read are added up where they are made. The order of the
products is the one of LoRA's paper (https://arxiv.org/abs/2106.09685); doing it by hand for speed is Unsloth's idea.

DoRA (https://arxiv.org/abs/2402.09353) divides by the length of each row of ``W + scale * B A``. PEFT builds that
matrix for it, from an identity matrix. Here the lengths come from the square's three parts, ``|W|^2 +
2 scale B (W A')' + scale^2 B (A A') B'``, of which the first never changes. Nothing larger than ``A`` and ``B`` is
made.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional

_READ_THE_SAME = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class _LoraLinears(torch.autograd.Function):
    """``x`` (tokens, in); of each layer that reads it ``weight`` (out, in), ``bias`` or None, ``a`` (r, in) and ``b``
    (out, r), all weights first -> (tokens, out) of each."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scales: tuple[float, ...], *tensors: Any):
        weights, biases, each_a, each_b = _quarters(tensors)
        low_a = _joined(each_a, 0).to(x.dtype)
        low = x @ low_a.t()
        scaled = [(b * scale).to(x.dtype) for b, scale in zip(each_b, scales, strict=True)]
        parts = low.split([len(a) for a in each_a], 1)
        layers = zip(weights, biases, parts, scaled, strict=True)
        outs = [functional.linear(x, weight, bias).addmm_(part, b.t()) for weight, bias, part, b in layers]
        ctx.save_for_backward(x, low, low_a, *weights, *scaled)
        ctx.scales, ctx.ranks, ctx.dtypes = scales, [len(a) for a in each_a], (each_a[0].dtype, each_b[0].dtype)
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor):
        x, low, a, *others = ctx.saved_tensors
        count = len(grads)
        weights, scaled = others[:count], others[count:]
        grad_low = _joined([grad @ b for grad, b in zip(grads, scaled, strict=True)], 1)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grads[0] @ weights[0]
            for grad, weight in zip(grads[1:], weights[1:], strict=True):
                grad_x.addmm_(grad, weight)
            grad_x.addmm_(grad_low, a)
        grad_a = (grad_low.t() @ x).to(ctx.dtypes[0]).split(ctx.ranks)
        parts = zip(low.split(ctx.ranks, 1), grads, ctx.scales, strict=True)
        grad_b = [(part.t() @ grad).mul_(scale).t().to(ctx.dtypes[1]) for part, grad, scale in parts]
        return grad_x, None, *[None] * (2 * count), *grad_a, *grad_b


def _quarters(tensors: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    count = len(tensors) // 4
    return [tensors[start : start + count] for start in range(0, 4 * count, count)]


def _joined(tensors: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors), dim)


class _DoraLinear(torch.autograd.Function):
    """One layer as in :class:`_LoraLinears`, times ``magnitude`` (out,) over the rows' ``lengths`` (out,), which get no
    gradient."""

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
    for module in list(model.modules()):
        for names in _READ_THE_SAME:
            layers = [getattr(module, name, None) for name in names]
            if all(type(layer) is Linear and "forward" in vars(layer) and not layer.lora_variant for layer in layers):
                _Together(layers)
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
    original = layer.forward

    def forward(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if not layer.training or arguments or options or not _applies(layer, x):
            return original(x, *arguments, **options)
        return _computed([layer], x)[0]

    return forward


def _computed(layers: list[Any], x: torch.Tensor) -> list[torch.Tensor]:
    """What each layer gives for ``x`` (..., in), which all of them read."""
    names = [layer.active_adapters[0] for layer in layers]
    pairs = list(zip(layers, names, strict=True))
    outs = _LoraLinears.apply(
        x.reshape(-1, x.shape[-1]),
        tuple(layer.scaling[name] for layer, name in pairs),
        *(layer.base_layer.weight for layer in layers),
        *(layer.base_layer.bias for layer in layers),
        *(layer.lora_A[name].weight for layer, name in pairs),
        *(layer.lora_B[name].weight for layer, name in pairs),
    )
    return [out.view(*x.shape[:-1], out.shape[-1]) for out in outs]


class _Together:
    """Layers that a module calls one after another with the same tensor, such as those of queries, keys and values.

    The first that is called computes for all, and the others hand out what is there. Where one of them is called with
    another tensor it computes for itself, and a module that leaves results behind goes back to one at a time.
    """

    def __init__(self, layers: list[Any]):
        self._layers = layers
        self._alone = [layer.forward for layer in layers]
        self._x: torch.Tensor | None = None
        self._outs: dict[int, torch.Tensor] = {}
        self._pays = True
        for number, layer in enumerate(layers):
            layer.forward = partial(self._forward, number)

    def _forward(self, number: int, x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        # a compiler does not take layers that remember something where activations are computed again
        if arguments or options or not self._pays or torch.compiler.is_compiling():
            return self._alone[number](x, *arguments, **options)
        if x is self._x and number in self._outs:
            out = self._outs.pop(number)
            self._x = self._x if self._outs else None
            return out
        left, self._x, self._outs = bool(self._outs), None, {}
        self._pays = not left
        if number or left or not all(layer.training and _applies(layer, x) for layer in self._layers):
            return self._alone[number](x)
        first, *others = _computed(self._layers, x)
        self._x, self._outs = x, dict(enumerate(others, 1))
        return first


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
