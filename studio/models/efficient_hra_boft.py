"""HRA and BOFT without their large matrices: the input of a layer is turned, not the layer.

Both multiply a weight ``W`` (out, in) from the right with an orthogonal matrix. PEFT makes that matrix (in, in) for
every layer in every forward pass, which takes more time and memory than the model itself. A row of inputs times the
matrix is the same, and cheap:

- HRA (https://arxiv.org/abs/2405.17484): a product of r reflections is ``I - V T V'`` with a triangular T (r, r), the
  compact WY form of Schreiber and Van Loan (https://doi.org/10.1137/0910005), so the pass costs as much as LoRA's.
- BOFT (https://arxiv.org/abs/2311.06243): blocks of ``block_size`` inputs are turned at a time; the butterfly's
  permutations reorder the inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def turn_inputs(model: torch.nn.Module) -> int:
    """Let the HRA and BOFT layers of a PEFT model turn their inputs; returns how many there are. Once is enough."""
    from peft.tuners.boft.layer import Linear as BoftLinear
    from peft.tuners.hra.layer import HRALinear

    turned = {HRALinear: _hra_forward, BoftLinear: _boft_forward}
    layers = [module for module in model.modules() if type(module) in turned]
    for layer in layers:
        layer.forward = turned[type(layer)](layer)
    return len(layers)


def _hra_forward(layer: Any) -> Callable[..., torch.Tensor]:
    def forward(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if layer.disable_adapters or layer.merged:
            return type(layer).forward(layer, x, *arguments, **options)
        for name in reversed(layer.active_adapters):
            if name in layer.hra_u:
                x = _reflected(x, layer.hra_u[name])
        return layer.base_layer(x, *arguments, **options)

    return forward


def _reflected(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """``x`` (..., in) behind the reflections at the columns of ``u`` (in, r), the last one first."""
    v = u / u.norm(dim=0)
    inverse = (v.t() @ v).triu(1) + 0.5 * torch.eye(u.shape[1], device=u.device, dtype=u.dtype)
    vt = torch.linalg.solve_triangular(inverse, v, upper=True, left=False)  # v @ inverse of inverse
    flat = x.reshape(-1, x.shape[-1])
    return torch.addmm(flat, flat @ v.to(x.dtype), vt.t().to(x.dtype), alpha=-1).view_as(x)


def _boft_forward(layer: Any) -> Callable[..., torch.Tensor]:
    orders: list[tuple[torch.Tensor, torch.Tensor]] | None = None  # of the inputs for each factor, there and back

    def forward(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal orders
        dropping = layer.training and any(d.p for d in layer.boft_dropout.values() if hasattr(d, "p"))
        if layer.disable_adapters or layer.merged or dropping:
            return type(layer).forward(layer, x, *arguments, **options)
        if orders is None or orders[0][0].device != x.device:
            there = layer.boft_P.argmax(1)
            orders = [(order.to(x.device), order.argsort().to(x.device)) for order in there]
        scale = None
        for name in reversed(layer.active_adapters):
            if name in layer.boft_R:
                x = _rotated(x, layer, name, orders)
                own = layer.boft_s[name].squeeze(-1)
                scale = own if scale is None else scale * own
        result = layer.base_layer(x, *arguments, **options)
        if scale is None:
            return result
        bias = layer.base_layer.bias
        scaled = (result if bias is None else result - bias) * scale.to(x.dtype)
        return scaled if bias is None else scaled + bias

    return forward


def _rotated(x: torch.Tensor, layer: Any, name: str, orders: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """``x`` (..., in) behind the butterfly's factors, the last one first."""
    factors, blocks, size, _ = layer.boft_R[name].shape
    turns = layer.cayley_batch(layer.boft_R[name].view(factors * blocks, size, size))
    turns = turns.view(factors, blocks, size, size).to(x.dtype)
    flat = x.reshape(-1, x.shape[-1])
    for number in reversed(range(factors)):
        there, back = orders[number]
        moved = factors > 1  # a single factor keeps the order
        parts = (flat[:, there] if moved else flat).view(-1, blocks, size)
        flat = torch.einsum("tkb,kbc->tkc", parts, turns[number]).reshape(flat.shape)
        flat = flat[:, back] if moved else flat
    return flat.view_as(x)
