"""Which folders are runs, and what in a run's folder cannot be read.

A damaged run is listed with the reason; every other run and the page work as if it were not there.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import yaml

from studio.workspace import is_run_id

_PARTS = ("recipe.yaml", "events.jsonl", "process.json", "claim", "checkpoints", "model")  # one of them makes a run
_MADE_HERE = re.compile(r"\d{8}-\d{6}-")  # how the ids of runs begin
_LARGEST_RECIPE = 1 << 20  # bytes
_DEEPEST = 40  # levels of nesting; a recipe has four
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # five times as fast where libyaml is there


def is_run(folder: Path) -> bool:
    """Whether this is a run's folder, damaged or not; a file or a broken link with a run's name counts."""
    if not is_run_id(folder.name):
        return False
    if not (os.path.isdir(folder) and os.access(folder, os.R_OK | os.X_OK)):
        return bool(_MADE_HERE.match(folder.name)) and os.path.lexists(folder)
    return any(os.path.lexists(folder / name) for name in _PARTS)


def damage_of(folder: Path) -> str:
    """What of a run cannot be read, as one sentence; empty if it is sound."""
    if not os.path.isdir(folder):
        return f"{folder.name} is not a folder."
    if not os.access(folder, os.R_OK | os.X_OK):
        return "its folder cannot be read: permission denied."
    return recipe_damage(folder / "recipe.yaml") or _events_damage(folder / "events.jsonl")


def recipe_damage(path: Path) -> str:
    """What is wrong with a run's recipe file, as one sentence; empty if it can be read."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_RECIPE + 1)
        if len(data) > _LARGEST_RECIPE:
            return "recipe.yaml is larger than 1 MB."
        return _structure(data)
    except FileNotFoundError:
        return "recipe.yaml is missing."
    except OSError as error:
        return f"recipe.yaml cannot be read: {error.strerror}."
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        return f"recipe.yaml is not valid YAML{f' (line {mark.line + 1})' if mark else ''}."


def _structure(data: bytes) -> str:
    """What is wrong with the structure of a recipe; nothing is built of it, which takes longer and recurses."""
    depth, top = 0, None
    for event in yaml.parse(data, _LOADER):
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth, top = depth + 1, top or event
            if depth > _DEEPEST:
                return "recipe.yaml is nested too deeply."
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
        elif isinstance(event, (yaml.ScalarEvent, yaml.AliasEvent)):
            top = top or event
    return "" if isinstance(top, yaml.MappingStartEvent) else "recipe.yaml is not a mapping of sections."


def _events_damage(path: Path) -> str:
    if path.is_symlink():
        return "events.jsonl is a link to another file."
    try:
        with path.open("rb"):
            return ""
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"events.jsonl cannot be read: {error.strerror}."
