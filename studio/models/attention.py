"""Attention that is computed in float32 although the model is in half precision.

PyTorch's kernel for CPUs is slower in bfloat16 than in float32 where rows are short: its products are small, and each
block is converted on its own. Queries, keys and values are made float32 once instead, and the result is turned back.
"""

from __future__ import annotations

from typing import Any

import torch

FLOAT32 = "sdpa_float32"


def registered(name: str) -> str:
    """A name that transformers' ``set_attn_implementation`` takes, ours made known to it."""
    if name == FLOAT32:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask

        AttentionInterface.register(FLOAT32, _float32)
        AttentionMaskInterface.register(FLOAT32, sdpa_mask)
    return name


def _float32(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    wide = (each.float() for each in (query, key, value))
    out, weights = sdpa_attention_forward(module, *wide, attention_mask, **options)
    return out.to(query.dtype), weights
