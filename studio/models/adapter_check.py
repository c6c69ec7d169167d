"""What an adapter_config.json of unknown origin may not say, checked before PEFT reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.models.headers import read_json
from studio.models.patterns import Patterns

_NAMES = (  # of modules as models have them: an expression that is slow on these is slow on a model
    "base_model.model.model.layers.11.self_attn.q_proj",
    "base_model.model.model.layers.11.mlp.down_proj",
    "model.layers.11.post_attention_layernorm",
    "transformer.h.11.attn.c_attn",
    "encoder.layer.11.attention.self.query",
    "lm_head",
)


def check_adapter(folder: Path) -> None:
    """Refuse a configuration that would import modules, or whose expressions take long to match.

    Raises:
        StudioError: codes ``adapter_imports``, ``pattern_slow``, ``pattern_invalid``.
    """
    config = read_json(folder / "adapter_config.json", missing={})
    if not isinstance(config, dict):
        raise StudioError(f"{folder / 'adapter_config.json'} is not a JSON object.", "Copy the adapter again.")
    if config.get("megatron_config"):  # PEFT imports the module that megatron_core names
        raise StudioError(
            f"The adapter in {folder} names a Python module to import (megatron_core).",
            "Take megatron_config out of its adapter_config.json, or choose another adapter.",
            code="adapter_imports",
        )
    patterns = Patterns("")
    for field, pattern in _expressions(config):
        for name in _NAMES:
            patterns.fits(pattern, name, field)


def _expressions(config: dict[str, Any]) -> list[tuple[str, str]]:
    """The regular expressions that PEFT makes of a configuration, with the field that each comes from."""
    found = [(key, config.get(key)) for key in ("target_modules", "exclude_modules", "feedforward_modules")]
    found += [("modules_to_save", rf"(^|.*\.){name}($|\..*)") for name in _texts(config.get("modules_to_save"))]
    for field in ("rank_pattern", "alpha_pattern"):
        found += [(field, rf"(.*\.)?({key})$") for key in _texts(config.get(field))]
    layers = config.get("layers_pattern")
    found += [("layers_pattern", rf"(?:^|.*?\.){name}\.(\d+)\..*") for name in _texts([layers, *_texts(layers)])]
    return [(field, pattern) for field, pattern in found if isinstance(pattern, str)]


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, (list, dict)) else []
