"""Bounds on the numbers of a model's config.json, checked before any of them sizes a list, a loop or a tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from studio.errors import StudioError

_LAYERS, _WIDTH, _ROWS, _LENGTH = 1024, 1 << 20, 1 << 24, 1 << 32
LIMITS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), (1, _LAYERS)),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers", "num_encoder_layers"), (0, _LAYERS)),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim"), (1, _WIDTH)),
    **dict.fromkeys(("intermediate_size", "n_inner", "d_ff", "ffn_dim", "moe_intermediate_size"), (0, 4 * _WIDTH)),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), (1, 65_536)),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), (0, 65_536)),
    **dict.fromkeys(("head_dim", "d_kv", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), (0, _WIDTH)),
    **dict.fromkeys(("vocab_size", "padded_vocab_size"), (1, _ROWS)),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "n_shared_experts"), (0, 65_536)),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"), (0, _LENGTH)),
    **dict.fromkeys(("type_vocab_size", "num_labels", "sliding_window"), (0, _LENGTH)),
}
"""Key of a configuration -> least and largest value. The largest published models stay a factor of eight below."""
_MOST_VALUES = 100_000
_MOST_DEPTH = 20


def check_config(config: dict[str, Any], where: str) -> None:
    """Refuse a configuration with sizes that no model has.

    Args:
        where: the file, for the message.

    Raises:
        StudioError: a size is no whole number or out of its bounds, or the configuration is nested too deep or too
            long (code ``config_out_of_bounds``).
    """
    for key, value in _values(config, where):
        bounds = LIMITS.get(key)
        if bounds is None or value is None:
            continue
        for number in value if isinstance(value, list) else [value]:
            if not _is_size(number, *bounds):
                raise _refused(
                    f"{where}: {key} is {repr(number)[:80]}.", f"It must be from {bounds[0]} to {bounds[1]}."
                )


def _is_size(value: Any, least: int, most: int) -> bool:
    if isinstance(value, float):  # 2048.0 is a whole number; nan and infinity are none
        value = int(value) if math.isfinite(value) and value.is_integer() else None
    return type(value) is int and least <= value <= most


def _values(config: dict[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    """Every key with its value, also of the configurations inside."""
    waiting: list[tuple[dict[str, Any], int]] = [(config, 1)]
    count = 0
    while waiting:
        inner, depth = waiting.pop()
        for key, value in inner.items():
            count += 1
            if count > _MOST_VALUES or depth > _MOST_DEPTH:
                raise _refused(f"{where} holds too many values, or is nested too deep.", "Copy it again.")
            yield key, value
            if isinstance(value, dict):
                waiting.append((value, depth + 1))


def _refused(what: str, fix: str) -> StudioError:
    return StudioError(
        what, f"{fix} Copy the model again, or choose another one.", "model.id", code="config_out_of_bounds"
    )
