"""The names that people give to runs, wherever the page shows a run; its id where it has none."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping

from studio.errors import StudioError
from studio.runs import Run

_RIGHT_TO_LEFT = ("R", "AL", "RLE", "RLO", "RLI", "LRE", "LRO", "LRI", "PDF", "PDI", "FSI")


def run_name(run_id: str) -> str:
    """The name of a run; empty if it has none or is gone."""
    try:
        return Run.open(run_id).label.name
    except StudioError:
        return ""


def model_name(target: str) -> str:
    """A model as the page calls it: the run's name instead of its id, with the step of a checkpoint."""
    run_id, at, step = target.partition("@")
    name = "" if target.startswith(("base", "adapter:")) else run_name(run_id)
    return f"{isolated(name)}{at}{step}" if name else target


def unique_names(names: Mapping[str, str], ids: list[str]) -> dict[str, str]:
    """What to call each run in a list: its name, with the id where several have the same one, or the id."""
    counts = Counter(name for name in names.values() if name)
    shown = {}
    for id in ids:
        name = names.get(id, "")
        shown[id] = id if not name else isolated(name) if counts[name] == 1 else f"{isolated(name)} ({id})"
    return shown


def isolated(text: str) -> str:
    """A text whose writing direction does not reach what stands beside it; a plain one stays as it is."""
    if any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in text):
        ends = text.count("\u202a") + text.count("\u202b") + text.count("\u202d") + text.count("\u202e")
        return "\u2068" + text + "\u202c" * ends + "\u2069"
    return text
