"""Recipe paths in messages (``train.learning_rate``) as the form calls them, and the fields that messages are about."""

from __future__ import annotations

import re
from collections.abc import Iterable

from studio.errors import StudioError, StudioErrors
from studio.recipe import METHODS, SECTIONS
from studio.ui.form import label

_PATH = re.compile(r"(?<![\w./\\-])(model|data|method|train)\.([A-Za-z_]\w*)(?![\w./\\-]*\.\w)")


def worded(error: StudioError) -> StudioError:
    """An error whose sentences name the form's labels instead of the recipe's paths."""
    if isinstance(error, StudioErrors):
        return StudioErrors([worded(problem) for problem in error.problems])
    return StudioError(in_words(error.what), in_words(error.fix), field=error.field, code=error.code)


def in_words(text: str) -> str:
    """A text with the form's labels for recipe paths; what only looks like a path (``data.jsonl``) stays."""

    def label_of(found: re.Match[str]) -> str:
        section, key = found[1], found[2]
        sections = METHODS.values() if section == "method" else [SECTIONS[section]]
        known = any(key in each.model_fields for each in sections)
        return f"“{label(found[0])}”" if known else found[0]

    return _PATH.sub(label_of, text)


def element_ids(problems: Iterable[StudioError], method: str) -> list[str]:
    """The ``elem_id`` of the form's field of each problem that has one.

    Args:
        method: the chosen method's kind; the fields of methods have it in their ids.
    """
    found = []
    for problem in problems:
        section, _, key = (problem.field or "").partition(".")
        key = key.split(".")[0]
        if section == "method" and key != "kind" and key:
            found.append(f"method-{method}-{key}")
        elif section in ("model", "data", "train") and key:
            found.append(f"{section}-{key}")
    return list(dict.fromkeys(found))
