"""Settings for a purpose: fragments of recipes in recipes/presets, put over a recipe field by field."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from studio.recipe import Recipe

FOLDER = Path(__file__).resolve().parent.parent / "recipes" / "presets"


@dataclass(frozen=True)
class Preset:
    """A fragment of a recipe: its ``title``, what it is ``about``, and its ``values`` by section."""

    title: str
    about: str
    values: dict[str, dict[str, Any]]

    def applied(self, recipe: Recipe) -> tuple[Recipe, list[tuple[str, Any, Any]]]:
        """The recipe with this preset over it, and each field that it changes: (path, old value, new value).

        A method of another kind starts from its own defaults.
        """
        before = recipe.model_dump(mode="json")
        after = {name: dict(value) if isinstance(value, dict) else value for name, value in before.items()}
        for section, fields in self.values.items():
            same = section != "method" or fields.get("kind") == after["method"]["kind"]
            after[section] = {**(after[section] if same else {}), **fields}
        made = Recipe.parse(after, where=self.title)
        new = made.model_dump(mode="json")
        changes = [
            (f"{section}.{name}", before[section].get(name), value)
            for section in ("model", "data", "method", "train")
            for name, value in new[section].items()
            if before[section].get(name) != value and (section != "method" or name in self.values.get("method", {}))
        ]
        return made, changes


@cache
def presets() -> dict[str, Preset]:
    """All presets by their files' names; a file's first line is the title, the comment below it what it is for."""
    found = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        title, *about = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
        found[path.stem] = Preset(title, " ".join(about), yaml.safe_load(text))
    order = ("small-data", "long-context", "least-memory", "best-quality")
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))
