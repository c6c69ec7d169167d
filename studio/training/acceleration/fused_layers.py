"""Norms, rotary positions and gated layers in one autograd function each: fewer passes over memory, the same numbers.

Autograd keeps and makes a tensor for each small operation of these layers, in float32 for a norm. On a CPU such passes
over memory cost as much as a good part of the matrix products. Here the forward pass works in place, little is kept,
and the backward pass is written by hand: what Liger's kernels (https://arxiv.org/abs/2410.10989) do on a GPU, with
PyTorch's own operations. Layers are found by their shape, not by their name, and each kind is tried on random numbers,
value and gradients, before it is put in the place of the model's own. Without gradients, in a validation, the model
goes its own way, and gives to the last digit what an evaluation gives.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn import functional

from studio.models.head import without_dropout

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}  # relative, of a whole tensor


class _RmsNorm(torch.autograd.Function):
    """``x`` (..., size), ``weight`` (size,) -> as ``x``: root mean square normalisation
    (https://arxiv.org/abs/1910.07467) in float32, rounded to the format of ``x`` before the weight, as Llama does."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        scale = scale.add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, scale, weight)
        normed = wide * scale if wide is x else wide.mul_(scale).to(x.dtype)
        return normed.mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor):
        x, scale, weight = ctx.saved_tensors
        wide, of_x, of_weight = x.float(), None, None
        if ctx.needs_input_grad[1]:
            normed = (wide * scale).mul_(grad)
            of_weight = normed.reshape(-1, x.shape[-1]).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            of_x = (grad * weight).float()
            along = torch.linalg.vecdot(of_x, wide).unsqueeze(-1).mul_(scale**3).div_(-x.shape[-1])
            of_x = of_x.mul_(scale).addcmul_(wide, along).to(x.dtype)
        return of_x, of_weight, None


class _Rotary(torch.autograd.Function):
    """``x`` (batch, heads, length, size) turned by ``cos`` and ``sin`` (batch, 1, length, size), whose halves are the
    same (https://arxiv.org/abs/2104.09864). The gradient is turned back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor):
        return _turned(grad, *ctx.saved_tensors, -1), None, None


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, way: int) -> torch.Tensor:
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-way)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:], value=way)
    return out


class _Gated(torch.autograd.Function):
    """``silu(gate) * up`` (https://arxiv.org/abs/2002.05202), of which ``silu(gate)`` is computed again in the
    backward pass instead of being kept."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor):
        gate, up = ctx.saved_tensors
        of_gate = grad * up
        torch.ops.aten.silu_backward.grad_input(of_gate, gate, grad_input=of_gate)
        return of_gate, functional.silu(gate).mul_(grad)


class FusedLayers:
    """What of a model can be computed so. ``in_place`` puts it there for a while.

    Args:
        model: loaded, with its adapter; bare or PEFT's.
    """

    def __init__(self, model: torch.nn.Module):
        self._model = model
        with without_dropout(model):
            self._norms = _those_that_agree(model, _norm_of)
            self._gated = _those_that_agree(model, _gated_of)
        self._rotary = _rotary_modules(model)

    def __str__(self) -> str:
        counts = {"norms": len(self._norms), "gated layers": len(self._gated)}
        said = [f"{count} {what}" for what, count in counts.items() if count]
        return ", ".join(said + ["rotary positions"] * bool(self._rotary)) or "none"

    def __bool__(self) -> bool:
        return bool(self._norms or self._gated or self._rotary)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model compute so until the end of the block."""
        with ExitStack() as stack:
            for layer, forward in [*self._norms, *self._gated]:
                layer.forward = forward
                stack.callback(vars(layer).pop, "forward", None)
            for module in self._rotary:
                stack.callback(setattr, module, "apply_rotary_pos_emb", module.apply_rotary_pos_emb)
                module.apply_rotary_pos_emb = _rotary_of(module.apply_rotary_pos_emb)
            yield


Forward = Callable[..., torch.Tensor]


def _those_that_agree(
    model: torch.nn.Module, fused: Callable[[torch.nn.Module], tuple[Forward, int] | None]
) -> list[tuple[torch.nn.Module, Forward]]:
    """The layers of one kind with their new forward pass; each class is tried once."""
    found, agrees = [], {}
    dtype = model.get_input_embeddings().weight.dtype  # of what layers are given; quantised weights have none of use
    for layer in model.modules():
        if "forward" in vars(layer) or (new := fused(layer)) is None:
            continue
        forward, size = new
        if type(layer) not in agrees:
            agrees[type(layer)] = _agrees(layer, forward, size, dtype)
        if agrees[type(layer)]:
            found.append((layer, forward))
    return found


def _agrees(layer: torch.nn.Module, forward: Forward, size: int, dtype: torch.dtype) -> bool:
    """Whether a layer and its new forward pass give the same value and gradients for random numbers."""
    device, generator = next(layer.parameters()).device, torch.Generator().manual_seed(0)
    drawn, wanted = (torch.randn(2, 3, size, generator=generator).to(device, dtype) for _ in range(2))
    found = []
    with torch.enable_grad():
        for way in (layer.forward, forward):
            x = drawn.clone().requires_grad_()
            trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
            try:
                out = way(x)
                gradients = torch.autograd.grad((out * wanted).float().sum(), [x, *trained], allow_unused=True)
            except (TypeError, RuntimeError):  # it takes something else: left alone
                return False
            found.append([out, *gradients])
    return all(_close(one, other) for one, other in zip(*found, strict=True))


def _close(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    off = (one.float() - other.float()).norm() <= _TOLERANCE.get(one.dtype, 1e-4) * one.float().norm()
    return one.shape == other.shape and one.dtype == other.dtype and bool(off)


def _norm_of(layer: torch.nn.Module) -> tuple[Forward, int] | None:
    """The forward pass for a layer that looks like Llama's norm, and the width of its input."""
    weight, epsilon = getattr(layer, "weight", None), getattr(layer, "variance_epsilon", getattr(layer, "eps", None))
    if "RMSNorm" not in type(layer).__name__ or not isinstance(weight, torch.nn.Parameter) or weight.dim() != 1:
        return None
    original = layer.forward

    def forward(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        weight = layer.weight
        other = x.dtype != weight.dtype or torch.is_autocast_enabled(x.device.type)
        if arguments or options or other or not torch.is_grad_enabled():
            return original(x, *arguments, **options)
        return _RmsNorm.apply(x, weight, epsilon)

    return (forward, len(weight)) if isinstance(epsilon, float) else None


def _gated_of(layer: torch.nn.Module) -> tuple[Forward, int] | None:
    """The forward pass for a layer that looks like Llama's feed-forward one, and the width of its input."""
    parts = [getattr(layer, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    activation = getattr(layer, "act_fn", None)
    if not all(isinstance(part, torch.nn.Module) for part in parts) or not hasattr(parts[0], "in_features"):
        return None
    if (
        type(activation).__name__ not in ("SiLU", "SiLUActivation")
        or len(inspect.signature(layer.forward).parameters) != 1
    ):
        return None

    original = layer.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return original(x)
        return layer.down_proj(_Gated.apply(layer.gate_proj(x), layer.up_proj(x)))

    return forward, parts[0].in_features


def _rotary_modules(model: torch.nn.Module) -> list[Any]:
    """The modules of transformers whose ``apply_rotary_pos_emb`` is Llama's."""
    names = {type(layer).__module__ for layer in model.modules()}
    modules = [sys.modules[name] for name in sorted(names) if hasattr(sys.modules.get(name), "apply_rotary_pos_emb")]
    return [module for module in modules if _is_llamas(module.apply_rotary_pos_emb)]


def _is_llamas(original: Callable[..., Any]) -> bool:
    drawn = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 5, 8, generator=drawn) for heads in (4, 2))
    angles = torch.randn(2, 5, 4, generator=drawn).repeat(1, 1, 2)
    found = []
    with torch.enable_grad():
        for way in (original, _rotary_of(original)):
            inputs = [q.clone().requires_grad_(), k.clone().requires_grad_()]
            try:
                out = way(*inputs, angles.cos(), angles.sin())
                loss = sum((each * (1 + each)).sum() for each in out)
                found.append([*out, *torch.autograd.grad(loss, inputs)])
            except (TypeError, ValueError, RuntimeError):  # it takes something else: left alone
                return False
    return all(_close(one, other) for one, other in zip(*found, strict=True))


def _rotary_of(original: Callable[..., Any]) -> Callable[..., Any]:
    def apply_rotary_pos_emb(
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *arguments: Any, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        same = q.dtype == k.dtype == cos.dtype == sin.dtype and q.shape[-1] == k.shape[-1] == cos.shape[-1]
        same = same and cos.dim() == 3 and not cos.requires_grad
        if arguments or options or not same or not torch.is_grad_enabled():
            return original(q, k, cos, sin, *arguments, **options)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        return _Rotary.apply(q, cos, sin), _Rotary.apply(k, cos, sin)

    return apply_rotary_pos_emb
