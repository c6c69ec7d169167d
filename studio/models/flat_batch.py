"""A batch as one row of its different tokens: no padding, and what all rows begin with only once.

Every layer but attention looks at each token by itself, so it can be given the tokens of a batch one behind another.
Attention puts them back into rows, each with the common beginning in front, and takes its output apart again: what a
row sees is what it saw before. The common beginning is computed once for all rows, and the gradients of all rows add up
in it (the idea of Prefix Grouper, https://arxiv.org/abs/2506.05433).

How the rows lie is told to attention in the place of the mask, which transformers hands through as it is when it has
four dimensions: whole numbers, (1 + shared, 2, rows, length), where ``shared`` is how many tokens the rows have in
common. All of the first dimension are the same (it takes no memory). The first of the two says where each place of a
row is in the one row; the second, read flat, where each token of the one row is in the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

_MULTIPLES = (16, 32)
_MANY = 192  # tokens from which on the larger one costs little

Attention = Callable[..., tuple[torch.Tensor, Any]]


def rounded(tokens: int) -> int:
    """The number of tokens that the one row gets. Kernels are made anew for each number, where oneDNN makes them: half
    a second and twenty megabytes for the layers of a small model, which are kept. So there shall be few."""
    return tokens + -tokens % _MULTIPLES[tokens >= _MANY]


def layout_of(attention_mask: torch.Tensor, shared: int) -> tuple[torch.Tensor, torch.Tensor]:
    """How the tokens of a batch lie in one row: the common beginning, then the rest of each row, one after the other.

    Some padding comes along, so that there are :func:`rounded` tokens, as far as there is padding
    (:func:`missing_columns`).

    Args:
        attention_mask: (rows, length), 1 for tokens and 0 for the padding on the right.
        shared: how many tokens all rows begin with, of which none is padding.

    Returns:
        What goes in the place of the mask; and of each token where it is in the rows, read flat: (tokens,).
    """
    rows, length = attention_mask.shape
    taken = attention_mask.bool().clone()
    padding = (~taken).flatten().nonzero()[:, 0]
    taken[1:, :shared] = False
    count = int(taken.sum())
    taken.view(-1)[padding[: rounded(count) - count]] = True
    tokens = taken.flatten().nonzero()[:, 0]
    places = torch.zeros(rows * length, dtype=torch.long, device=attention_mask.device)
    places[tokens] = torch.arange(len(tokens), device=places.device)
    places = places.view(rows, length)
    places[1:, :shared] = places[0, :shared]
    where = functional.pad(tokens, (0, rows * length - len(tokens))).view(rows, length)
    return torch.stack([places, where]).expand(1 + shared, 2, rows, length), tokens


def missing_columns(attention_mask: torch.Tensor, shared: int) -> int:
    """How many more columns of padding a batch needs, so that its one row can have :func:`rounded` tokens."""
    rows, tokens = len(attention_mask), int(attention_mask.sum())
    different = tokens - shared * (rows - 1)
    missing = rounded(different) - different - (attention_mask.numel() - tokens)
    return max(0, -(-missing // rows))


def is_layout(mask: Any) -> bool:
    """Whether what stands in the place of a mask says how rows lie."""
    return isinstance(mask, torch.Tensor) and mask.dim() == 4 and mask.dtype == torch.long


def in_rows(attend: Attention, dtype: torch.dtype | None = None) -> Attention:
    """An attention function of transformers that also understands a batch as one row, and computes in ``dtype``.

    Args:
        attend: gets query, key and value, (rows, heads, length, size), and gives (rows, length, heads, size).
    """

    def attention(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        **options: Any,
    ) -> tuple[torch.Tensor, Any]:
        wanted = dtype or query.dtype
        if not is_layout(mask):
            if mask is not None and mask.is_floating_point():
                mask = mask.to(wanted)
            out, weights = attend(module, *(each.to(wanted) for each in (query, key, value)), mask, **options)
            return out.to(query.dtype), weights
        wide = (_IntoRows.apply(each, mask, wanted) for each in (query, key, value))
        out, _ = attend(module, *wide, None, **options)
        return _OutOfRows.apply(out, mask, query.shape[2], query.dtype), None

    return attention


class _IntoRows(torch.autograd.Function):
    """``x`` (1, heads, tokens, size) -> (rows, heads, length, size) in ``dtype``. Padding gets some token: nothing
    looks at it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layout: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        ctx.layout, ctx.tokens, ctx.dtype = layout, x.shape[2], x.dtype
        rows = x[0].transpose(0, 1).index_select(0, layout[0, 0].flatten())  # (rows * length, heads, size)
        return rows.view(*layout.shape[2:], *rows.shape[1:]).transpose(1, 2).to(dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor):
        layout, (shared, rows, length) = ctx.layout, (len(ctx.layout) - 1, *ctx.layout.shape[2:])
        flat = grad.transpose(1, 2).reshape(rows * length, grad.shape[1], grad.shape[3])
        found = flat.index_select(0, layout[0, 1].flatten()[: ctx.tokens])
        if shared and rows > 1:
            found[:shared] += flat.view(rows, length, *flat.shape[1:])[1:, :shared].sum(0)
        return found.transpose(0, 1)[None].to(ctx.dtype), None, None


class _OutOfRows(torch.autograd.Function):
    """``x`` (rows, length, heads, size) -> (1, tokens, heads, size) in ``dtype``: of what the rows share the first
    row's."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layout: torch.Tensor, tokens: int, dtype: torch.dtype) -> torch.Tensor:
        ctx.layout, ctx.tokens, ctx.shape, ctx.dtype = layout, tokens, x.shape, x.dtype
        return x.flatten(0, 1).index_select(0, layout[0, 1].flatten()[:tokens])[None].to(dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor):
        rows, length, *each = ctx.shape
        found = torch.zeros(rows * length, *each, dtype=ctx.dtype, device=grad.device)
        found[ctx.layout[0, 1].flatten()[: ctx.tokens]] = grad[0].to(ctx.dtype)
        return found.view(ctx.shape), None, None, None
