"""The attention functions of this studio: PyTorch's kernel, in the model's number format or in float32, both of which
understand a batch as one row (:mod:`studio.models.flat_batch`).

PyTorch's kernel for CPUs is slower in bfloat16 than in float32 where rows are short: its products are small, and each
block is converted on its own. Queries, keys and values are made float32 once instead, and the result is turned back.
"""

from __future__ import annotations

import torch

FLOAT32 = "sdpa_float32"
UNDERSTAND_ROWS = ("sdpa", FLOAT32)


def registered(name: str) -> str:
    """A name that transformers' ``set_attn_implementation`` takes, ours made known to it."""
    if name in UNDERSTAND_ROWS:
        register()
    return name


def register() -> None:
    """Make our functions known to transformers. ``sdpa`` stays what it is for all that is not one row."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    from studio.models.flat_batch import in_rows

    AttentionInterface.register("sdpa", in_rows(sdpa_attention_forward))
    AttentionInterface.register(FLOAT32, in_rows(sdpa_attention_forward, torch.float32))
    AttentionMaskInterface.register(FLOAT32, sdpa_mask)
