"""Runs set beside each other: which ones may be drawn over the one that is shown, and what sets their recipes apart."""

from __future__ import annotations

import re
from contextlib import suppress

from studio.errors import StudioError
from studio.runs import Run
from studio.runs.differences import differences
from studio.ui.runs.charts import MOST_RUNS
from studio.ui.views import escape

LETTERS = "ABCDEF"  # as the chart names its lines


def together(run_id: str | None, others: list[str] | None) -> list[str]:
    """The runs on one chart: the one that is shown, then the others, each once and as many as a chart can hold."""
    return [id for id in dict.fromkeys([run_id, *(others or [])]) if id][:MOST_RUNS]


def short(run_id: str) -> str:
    """A run's id without the moment of its launch: its name, and the letters that make it the only one."""
    return re.sub(r"^\d{8}-\d{6}-(\d{3}-)?", "", run_id)


def apart(ids: list[str]) -> str:
    """A table of the fields in which the recipes of several runs differ; nothing for one run."""
    found = {}
    for letter, id in zip(LETTERS, ids, strict=False):
        with suppress(StudioError):  # deleted, or its recipe was broken by hand: the others can still be told apart
            found[letter, id] = Run.open(id).recipe.model_dump(mode="json")
    if len(found) < 2:
        return ""
    rows = [row for row in differences(list(found.values())) if row[0] != "name"]  # it stands above
    if not rows:
        return '<p class="note">The recipes of these runs are the same in every field.</p>'
    head = "".join(
        f'<th scope="col" title="{escape(id)}"><b>{letter}</b> {escape(short(id))}</th>' for letter, id in found
    )
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(value)}</td>" for value in values)}</tr>'
        for name, values in rows
    )
    return (
        f'<div class="apart"><h3>What differs in their recipes</h3><table><thead><tr><th scope="col">Field</th>{head}'
        f"</tr></thead><tbody>{lines}</tbody></table></div>"
    )
