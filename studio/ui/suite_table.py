"""The answers to a report's suites as one table: filtered, sorted, and with what differs alone, in the browser."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.evaluation.suite_export import csv_of

SIDES = ("base", "tuned")
_LONGEST = 4000  # characters of an answer in the table; the file has it whole


def html(suites: list[dict[str, Any]]) -> str:
    """Every prompt with both answers; ``assets/suite.js`` filters and sorts."""
    if not suites:
        return ""
    lines, tags = "", []
    for suite in suites:
        for row in suite["answers"]:
            tags += [tag for tag in row["tags"] if tag not in tags]
            lines += _line(suite["name"], row)
    options = "".join(f'<option value="{escape(tag)}">{escape(tag)}</option>' for tag in tags)
    names = "".join(f'<option value="{escape(s["name"])}">{escape(s["name"])}</option>' for s in suites)
    head = "".join(
        f'<th><button type="button" data-sort="{key}" title="Sort by this">{title}</button></th>'
        for key, title in (("place", "Prompt"), ("base", "Base"), ("tuned", "Tuned"), ("change", "Change"))
    )
    return (
        '<div class="card suite-table"><h3>Prompts and answers</h3><div class="filters">'
        '<label>Find <input type="search" data-find aria-label="Find in prompts and answers"></label>'
        f'<label>Suite <select data-suite><option value="">all</option>{names}</select></label>'
        f'<label>Tag <select data-tag><option value="">all</option>{options}</select></label>'
        '<label><input type="checkbox" data-differ> Only where the results differ</label>'
        '<span class="note" data-count></span></div>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _line(suite: str, row: dict[str, Any]) -> str:
    answers = row["answers"]
    passed = {side: answers.get(side, {}).get("passed") for side in SIDES}
    change = (passed["tuned"] or 0) - (passed["base"] or 0)
    cells = "".join(f"<td>{_answer(answers.get(side))}</td>" for side in SIDES)
    word = {1.0: '<b class="yes">won</b>', -1.0: '<b class="no">lost</b>'}.get(change, "")
    values = " ".join(f'data-{side}="{-1 if passed[side] is None else passed[side]}"' for side in SIDES)
    return (
        f'<tr data-suite="{escape(suite)}" data-tags="{escape("|".join(row["tags"]))}" data-change="{change}" {values}>'
        f'<td><small>{escape(row["id"])}</small><div class="whole">{escape(row["prompt"])}</div></td>{cells}'
        f"<td>{word}</td></tr>"
    )


def _answer(answer: dict[str, Any] | None) -> str:
    if answer is None:
        return '<span class="note">not asked</span>'
    if answer["error"]:
        return f'<span class="no">{escape(answer["error"])}</span>'
    mark = {None: "", 1.0: '<span class="yes">✓</span> ', 0.0: '<span class="no">✕</span> '}[answer["passed"]]
    output = answer["output"]
    cut = f" … {len(output) - _LONGEST:,} more characters, in the file" if len(output) > _LONGEST else ""
    return f'{mark}<div class="whole">{escape(output[:_LONGEST])}{cut}</div>'


def csv_file(folder: Path, run_id: str, made: dict[str, Any]) -> Path:
    """The answers of all suites of a report as a file that the page may hand out.

    Raises:
        StudioError: the disk is full.
    """
    path = folder / f"{run_id}-answers.csv"
    answers = [{**row, "id": f"{suite['name']}/{row['id']}"} for suite in made["suites"] for row in suite["answers"]]
    try:
        path.write_text(csv_of(answers, list(SIDES)), encoding="utf-8-sig", newline="")
    except OSError as error:
        raise StudioError(f"The answers cannot be handed out: {error.strerror}.", "Free some disk space.") from error
    return path
