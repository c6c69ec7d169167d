"""The reference of every recipe field, generated from the types: ``python -m studio.recipe.reference`` writes it."""

from __future__ import annotations

import json
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from studio.recipe import METHODS, SECTIONS, MixSpec, Recipe, Resolved, bounds

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipe.md"
_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}

_TOP = """# The recipe

Every field of a recipe, with its default. This page is generated from `studio/recipe/recipe.py` by
`python -m studio.recipe.reference`; change the help there.

A recipe is a YAML file with the sections `model`, `data`, `method` and `train`. Each field has a default, so a file
names only what differs. Unknown fields and values out of bounds are refused, all of them at once. On the command line
any field can be changed without touching the file:

    python app.py train recipes/quickstart.yaml train.learning_rate=5e-4 method.r=8

In YAML write `1.0e-3` rather than `1e-3`: both are understood here, but other tools may take the second for text.
"""


@dataclass(frozen=True)
class Setting:
    """One field of the recipe: its dotted ``path`` and everything that its declaration says about it."""

    path: str
    section: str
    field: FieldInfo
    method: str = ""  # the method.kind that has it

    @property
    def name(self) -> str:
        return self.path.rsplit(".", 1)[-1]

    @property
    def help(self) -> str:
        return self.field.description or ""

    @property
    def extra(self) -> dict[str, Any]:
        return self.field.json_schema_extra or {}


def settings() -> list[Setting]:
    """Every field that a person may write, in the order of the recipe; a field of several methods once for each."""
    found = [Setting("name", "", Recipe.model_fields["name"])]
    for section in ("model", "data"):
        found += [Setting(f"{section}.{name}", section, f) for name, f in SECTIONS[section].model_fields.items()]
    found.append(Setting("method.kind", "method", next(iter(METHODS.values())).model_fields["kind"]))
    for kind, method in METHODS.items():
        fields = ((name, f) for name, f in method.model_fields.items() if name != "kind")
        found += [Setting(f"method.{name}", "method", f, method=kind) for name, f in fields]
    found += [Setting(f"train.{name}", "train", f) for name, f in SECTIONS["train"].model_fields.items()]
    return found


def reference() -> str:
    """The whole page as Markdown."""
    every = settings()
    parts = [_TOP, "## Top level\n", _table([k for k in every if not k.section])]
    for section in ("model", "data"):
        parts += [f"## {section}\n", _story(SECTIONS[section]), _table([k for k in every if k.section == section])]
    kinds = ", ".join(f"`{kind}`" for kind in METHODS)
    parts.append(f"## method\n\n`method.kind` is one of {kinds}. Each kind has fields of its own.\n")
    for kind, method in METHODS.items():
        own = [k for k in every if k.method == kind]
        link = (method.model_fields["kind"].json_schema_extra or {}).get("link")
        source = f" ([source]({link}))" if link else ""
        parts += [f"### {kind}\n", _story(method).rstrip() + source + "\n"]
        parts.append(_table(own) if own else "It has no other fields.\n")
    parts += ["## train\n", _story(SECTIONS["train"]), _table([k for k in every if k.section == "train"])]
    parts += ["## resolved\n", _story(Resolved)]
    rows = [Setting(f"resolved.{name}", "resolved", f) for name, f in Resolved.model_fields.items()]
    parts.append(_table(rows))
    return "\n".join(parts)


def kind_of(annotation: Any) -> str:
    """A field's type in words: its choices, ``whole number``, ``text or empty``."""
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join("empty" if part is type(None) else kind_of(part) for part in get_args(annotation))
    if origin is list:
        inner = get_args(annotation)[0]
        return "list of sources" if inner is MixSpec else "list of numbers" if inner is int else "list of texts"
    if origin is dict:
        return "mapping of texts" if get_args(annotation)[1] is str else "mapping of names to numbers"
    return _WORDS[annotation]


def _story(section: type) -> str:
    return " ".join((section.__doc__ or "").split()) + "\n"


def _table(rows: list[Setting]) -> str:
    lines = ["| Field | Type or choices | Default | Bounds, unit | Help |", "| --- | --- | --- | --- | --- |"]
    for setting in rows:
        link = f" [Source]({setting.extra['link']})." if setting.extra.get("link") else ""
        help = f"{setting.help}{link}".replace("|", "\\|")
        kind, default = kind_of(setting.field.annotation), _default(setting.field)
        lines.append(f"| `{setting.name}` | {kind} | {default} | {_limits(setting)} | {help} |")
    return "\n".join(lines) + "\n"


def _limits(setting: Setting) -> str:
    sentence = bounds(setting.field).removeprefix("Choose ").removeprefix("a value from ").removesuffix(".")
    return ", ".join(part for part in (sentence, setting.extra.get("unit")) if part)


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None or value == "":
        return "empty"
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def main() -> None:
    """Write the page."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
