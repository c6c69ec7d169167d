"""Read, write and check a recipe: the typed object behind the form, the file, the command line and the run.

``sections`` and ``methods`` declare its settings. A field that is wrong is an error that says what to do.
"""

from __future__ import annotations

import difflib
import secrets
from pathlib import Path
from typing import Any

import yaml
from pydantic import PrivateAttr, ValidationError
from pydantic.fields import FieldInfo

from studio.errors import StudioError, StudioErrors
from studio.recipe.compatibility import combinations
from studio.recipe.methods import METHODS, AnyMethod, LoraMethod
from studio.recipe.sections import (
    SECTIONS,
    DataSpec,
    ModelSpec,
    Resolved,
    TrainSpec,
)
from studio.recipe.settings import Section, bounds, setting
from studio.recipe.yaml_file import MOST_BYTES, read_yaml, short, too_large

MOST_PROBLEMS = 50  # that are told of one recipe


class _PlainDumper(yaml.SafeDumper):
    """Writes equal values out each time: a recipe has no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class Recipe(Section):
    """A complete fine-tuning job: model, data, method, training. Everything has a default."""

    name: str = setting("", "A short name for the runs of this recipe.", max_length=80)
    model: ModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    method: AnyMethod = LoraMethod()
    train: TrainSpec = TrainSpec()
    resolved: Resolved | None = setting(None, "Filled in by the worker; leave it out of recipes you write.")

    _problems: list[StudioError] = PrivateAttr(default_factory=list)

    @classmethod
    def parse(cls, values: Any, where: str = "The recipe") -> Recipe:
        """A recipe from plain nested dicts. Never raises for bad fields: see :meth:`problems`.

        A field that is refused keeps its default in the returned object, and the refusal is in ``problems()``, so a
        recipe that has problems must not be trained; :meth:`check` is the gate that everything goes through.
        """
        if not isinstance(values, dict):
            recipe = cls()
            recipe._problems = [
                StudioError(
                    f"{where} is not a mapping of sections.", "Start from one of the files in recipes/.", field=""
                )
            ]
            return recipe
        values = {str(k): v for k, v in values.items() if v is not None}
        problems: list[StudioError] = []
        count = 0
        for _ in range(100):  # take the refused values out, keep the rest, and collect every refusal
            try:
                recipe = cls.model_validate(values)
                break
            except ValidationError as error:
                items = error.errors(include_url=False)
                count += len(items)
                problems += [_refusal(item) for item in items[: MOST_PROBLEMS - len(problems)]]
                values = _without(values, [_removed(item) for item in items])
        else:
            raise AssertionError("refused values could not be taken out of the recipe")
        if count > len(problems):
            problems.append(StudioError(f"There are {count - len(problems):,} more problems.", "", field=""))
        recipe._problems = problems
        return recipe

    @classmethod
    def load(cls, path: str | Path, overrides: list[str] | None = None) -> Recipe:
        """Read a YAML recipe and apply ``path.to.field=value`` overrides (values are YAML).

        Bad fields do not raise here: they are all in :meth:`problems`, and :meth:`check` refuses them together.

        Raises:
            StudioError: the file is missing, an override is not ``path=value``, or as :func:`read_yaml`.
        """
        path = Path(path)
        try:
            if path.stat().st_size > MOST_BYTES:
                raise too_large(str(path))
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            known = ", ".join(name for name in shipped() if "/" not in name)
            near = f" Recipes in this project: {known}." if known else ""
            raise StudioError(f"There is no recipe at {path}.", f"Check the path.{near}") from error
        except IsADirectoryError as error:
            raise StudioError(f"{path} is a folder, not a recipe.", "Name a .yaml file.") from error
        except UnicodeDecodeError as error:
            raise StudioError(f"{path} is not a text file.", "A recipe is a YAML file in UTF-8.") from error
        except OSError as error:
            raise StudioError(f"{path} cannot be read: {error.strerror}.", "Check the file's permissions.") from error
        values = read_yaml(text, str(path))
        values = {} if values is None else values
        for override in overrides or []:
            _override(values, override)
        recipe = cls.parse(values, where=str(path))
        if not recipe.name:
            recipe.name = path.stem
        return recipe

    def save(self, path: str | Path) -> None:
        """Write the recipe as YAML, every field spelled out, by writing aside and renaming."""
        path = Path(path)
        aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")  # two browsers may save at once
        aside.write_text(self.to_yaml(), encoding="utf-8")
        aside.replace(path)

    def to_yaml(self) -> str:
        """The recipe as YAML text."""
        values = self.model_dump(mode="json")
        if values["resolved"] is None:
            del values["resolved"]
        return yaml.dump(values, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)

    @property
    def pinned_model(self) -> ModelSpec:
        """The model at the commit that was really trained on, where the run has recorded one."""
        revision = self.resolved.model_revision if self.resolved else None
        if self.model.revision is None and revision and not revision.startswith("sha256:"):
            return self.model.model_copy(update={"revision": revision})
        return self.model

    def problems(self) -> list[StudioError]:
        """Everything that stands in the way of a launch, all at once; empty if the recipe is sound.

        Checks the recipe by itself: fields, bounds and combinations. Whether the model and the data can be had is
        found out where they are read.
        """
        return [*self._problems, *combinations(self)]

    def check(self) -> Recipe:
        """The recipe itself, if it is sound.

        Raises:
            StudioErrors: with every problem.
        """
        problems = self.problems()
        if problems:
            raise StudioErrors(problems)
        return self


def shipped() -> list[str]:
    """The recipes that come with the project, as paths below ``recipes/``, sorted; presets are fragments, and none."""
    folder = Path(__file__).resolve().parents[2] / "recipes"
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml"))
    return sorted(path for path in found if not path.startswith("presets/"))


def _location(item: dict) -> list[str]:
    """The keys from the top of the recipe to the refused value (pydantic puts the union's tag in between)."""
    keys = [str(part) for part in item["loc"]]
    if len(keys) > 1 and keys[0] == "method" and keys[1] in METHODS:
        del keys[1]
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        keys.append("kind")
    return keys


def _removed(item: dict) -> list[str]:
    """The keys to what has to go so that the rest can be checked: of a method that is none, all of it."""
    return ["method"] if item["type"].startswith("union_tag") else _location(item)


def _without(values: dict, removed: list[list[str]]) -> dict:
    """A copy of ``values`` without the innermost key that it has of each of these paths."""
    inside: dict[str, list[list[str]]] = {}
    gone: set[str] = set()
    for head, *rest in removed:
        inner = values.get(head)
        if rest and isinstance(inner, dict) and rest[0] in inner:
            inside.setdefault(head, []).append(rest)
        else:
            gone.add(head)
    kept = {key: value for key, value in values.items() if key not in gone}
    return kept | {key: _without(kept[key], paths) for key, paths in inside.items() if key in kept}


def _refusal(item: dict) -> StudioError:
    keys = _location(item)
    field = short(".".join(keys))
    given, context = item.get("input"), item.get("ctx") or {}
    shown = short(repr(given))
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(keys[-1], fields_at(keys[:-1], given_kind=item["loc"]), n=1, cutoff=0.6)
        fix = f"Did you mean {near[0]}?" if near else "Remove it, or look the name up in docs/recipe.md."
        return StudioError(f"{field} is not a field of the recipe.", fix, field=field)
    if item["type"] == "union_tag_invalid":
        tag = short(context.get("tag", ""))
        return StudioError(f"method.kind {tag!r} is not a method.", f"Use one of: {', '.join(METHODS)}.", field=field)
    if item["type"] == "union_tag_not_found":
        return StudioError("method.kind is missing.", f"Use one of: {', '.join(METHODS)}.", field=field)
    if item["type"] == "literal_error":
        allowed = str(context.get("expected", "")).replace("'", "").replace(" or ", ", ")
        return StudioError(f"{field} is {shown}.", f"Use one of: {allowed}.", field=field)
    fix = bounds(field_at(keys)) or "Change its value."
    if given is None or given == "":
        return StudioError(f"{field} is empty.", fix, field=field, code="field_empty")
    reason = item["msg"].removeprefix("Input ").rstrip(".")
    return StudioError(f"{field} is {shown}, but it {reason}.", fix, field=field)


def field_at(keys: list[str]) -> FieldInfo | None:
    """The declaration of the field at ``keys``; a method's field is looked for in every method."""
    if len(keys) == 1:
        return Recipe.model_fields.get(keys[0])
    sections = METHODS.values() if keys[0] == "method" else [SECTIONS[keys[0]]] if keys[0] in SECTIONS else []
    return next((s.model_fields[keys[1]] for s in sections if keys[1] in s.model_fields), None)


def fields_at(keys: list[str], given_kind: tuple = ()) -> list[str]:
    """Names of the fields of the section at ``keys`` ([] is the recipe itself)."""
    if not keys:
        return list(Recipe.model_fields)
    if keys[0] == "method":
        kinds = [k for k in map(str, given_kind) if k in METHODS]
        return list(METHODS[kinds[0]].model_fields) if kinds else []
    section = SECTIONS.get(keys[0])
    return list(section.model_fields) if section else []


def _override(values: Any, override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise StudioError(
            f"{short(override)!r} is not an override.", "Write path.to.field=value, for example train.max_steps=10."
        )
    value = read_yaml(text, f"The value of {short(path)}")
    if isinstance(value, str) and path.endswith("learning_rate"):
        value = text.strip()  # YAML 1.1 reads 1e-3 as text; pydantic turns it into a number
    for key in keys[:-1]:
        inner = values.setdefault(key, {}) if isinstance(values, dict) else None
        if not isinstance(inner, dict):
            raise StudioError(f"{short(path)!r} does not name a field.", "See docs/recipe.md for the names.")
        values = inner
    if not isinstance(values, dict):
        raise StudioError(f"{short(path)!r} does not name a field.", "The recipe is not a mapping of sections.")
    values[keys[-1]] = value
