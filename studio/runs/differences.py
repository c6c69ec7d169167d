"""What sets recipes apart: only the fields in which they differ."""

from __future__ import annotations

import json
from typing import Any

ABSENT = "–"  # a field that this recipe's method does not have
_LEFT_OUT = ("resolved.versions",)  # every library's version would be a row of its own


def differences(recipes: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Dotted field names with one value a recipe, in the recipes' order of fields; nothing that all have in common.

    Args:
        recipes: recipes as plain nested mappings (``Recipe.model_dump(mode="json")``).
    """
    flat = [flattened(recipe) for recipe in recipes]
    names = dict.fromkeys(name for fields in flat for name in fields if not name.startswith(_LEFT_OUT))
    rows = [(name, [_text(fields[name]) if name in fields else ABSENT for fields in flat]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def flattened(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names; lists stay whole and an empty mapping is a value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flattened(value, f"{before}{name}.")
        else:
            flat[before + name] = value
    return flat


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
