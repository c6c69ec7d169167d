"""Settings for a purpose: fragments of recipes in recipes/presets, put over a recipe field by field."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from studio.recipe import Recipe

Change = tuple[str, Any, Any]
"""The path of a field, its value before, and its value after."""
Changes = Iterable[Change]
FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "presets"


@dataclass(frozen=True)
class Preset:
    """A fragment of a recipe: its ``title``, what it is ``about``, and its ``values`` by section."""

    title: str
    about: str
    values: dict[str, dict[str, Any]]

    def applied(self, recipe: Recipe, former: Changes = ()) -> tuple[Recipe, list[Change]]:
        """The recipe with this preset over it, and each field that it changes: (path, old value, new value).

        A method of another kind starts from its own defaults.

        Args:
            former: what the preset that was applied before has changed. It is taken back first, except for fields
                that have been changed since then.
        """
        before = _taken_back(recipe, former).model_dump(mode="json")
        after = {name: dict(value) if isinstance(value, dict) else value for name, value in before.items()}
        for section, fields in self.values.items():
            same = section != "method" or fields.get("kind") == after["method"]["kind"]
            after[section] = {**(after[section] if same else {}), **fields}
        made = Recipe.parse(after, where=self.title)
        return made, _changes(before, made.model_dump(mode="json"))


def changes_between(before: Recipe, after: Recipe) -> list[Change]:
    """Each field that differs between two recipes; of methods of different kinds, the kind and what both have."""
    changes = _changes(before.model_dump(mode="json"), after.model_dump(mode="json"))
    same = before.method.kind == after.method.kind
    return [change for change in changes if same or not change[0].startswith("method.") or change[1] is not None]


def write_changes(changes: Changes) -> str:
    """Changes as JSON, for the page to keep."""
    return json.dumps([list(change) for change in changes])


def read_changes(text: str | None) -> list[Change]:
    """Changes from JSON; none if it is not what :func:`write_changes` wrote."""
    try:
        found = json.loads(text or "[]")
        return [(str(path), old, new) for path, old, new in found or []]
    except (ValueError, TypeError):
        return []


def _changes(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    return [
        (f"{section}.{name}", before[section].get(name), value)
        for section in ("model", "data", "method", "train")
        for name, value in after[section].items()
        if before[section].get(name) != value
    ]


def _taken_back(recipe: Recipe, changes: Changes) -> Recipe:
    """The recipe without changes that were made to it, where the fields still have the values that they got then."""
    changes = list(changes)
    values = recipe.model_dump(mode="json")
    kind = next(((old, new) for path, old, new in changes if path == "method.kind"), None)
    if kind and values["method"]["kind"] == kind[1] and isinstance(kind[0], str):
        values["method"] = {"kind": kind[0]}  # its fields were not there before
    for path, old, new in changes:
        section, _, name = path.partition(".")
        fields = values.get(section)
        if isinstance(fields, dict) and name in fields and fields[name] == new and old is not None:
            fields[name] = old
    return Recipe.parse(values, where="The form")


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
