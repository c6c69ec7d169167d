"""The answers to suites as one table: filtered, sorted, and with what differs alone, in the browser."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.evaluation.metrics import METRICS
from studio.evaluation.suite_export import csv_of

SIDES = (("base", "Base"), ("tuned", "Tuned"))
_LONGEST = 4000  # characters of an answer in the table; the file has it whole


def html(suites: list[dict[str, Any]], sides: Sequence[tuple[str, str]] = SIDES) -> str:
    """Every prompt with the answers of all models; ``assets/suite.js`` filters and sorts.

    Args:
        suites: each with ``name`` and ``answers``, as ``suite_export.rows`` gives them.
        sides: the models' names in the answers, and as they are shown.
    """
    if not suites:
        return ""
    lines, tags = "", []
    measured: dict[str, str] = {}
    for suite in suites:
        for row in suite["answers"]:
            tags += [tag for tag in row["tags"] if tag not in tags]
            values = _values(row, sides)
            measured |= {key: title for key, title in _titles().items() if key in values}
            lines += _line(suite["name"], row, sides, values)
    names = "".join(_option(s["name"], s["name"]) for s in suites)
    tagged, measures = "".join(_option(t, t) for t in tags), "".join(_option(k, t) for k, t in measured.items())
    columns = [("place", "Prompt"), *((str(at), title) for at, (_, title) in enumerate(sides))]
    columns += [("change", "Change")] if len(sides) == 2 else []
    head = "".join(
        f'<th><button type="button" data-sort="{key}" title="Sort by this">{escape(title)}</button></th>'
        for key, title in columns
    )
    return (
        f'<div class="card suite-table of-{len(sides)}"><h3>Prompts and answers</h3><div class="filters">'
        '<label>Find <input type="search" data-find aria-label="Find in prompts and answers"></label>'
        f'<label>Suite <select data-suite><option value="">all</option>{names}</select></label>'
        f'<label>Tag <select data-tag><option value="">all</option>{tagged}</select></label>'
        f"<label>Sort columns by <select data-by>{measures}</select></label>"
        '<label><input type="checkbox" data-differ> Only where the results differ</label>'
        '<span class="note" data-count></span></div>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _option(value: str, title: str) -> str:
    return f'<option value="{escape(value)}">{escape(title)}</option>'


def _titles() -> dict[str, str]:
    metrics = {key: metric.title for key, metric in METRICS.items()}
    return {"passed": "check passed", "new_tokens": "tokens", **metrics}


def _values(row: dict[str, Any], sides: Sequence[tuple[str, str]]) -> dict[str, list[float | None]]:
    """What can be sorted by: for each measure a number a model, or None; measures that nobody has are left out."""
    given = [row["answers"].get(side) or {} for side, _ in sides]
    flat = [{"passed": g.get("passed"), "new_tokens": g.get("new_tokens"), **g.get("scores", {})} for g in given]
    keys = dict.fromkeys(key for each in flat for key in each)
    found = {key: [each.get(key) for each in flat] for key in keys}
    return {key: numbers for key, numbers in found.items() if any(n is not None for n in numbers)}


def _line(suite: str, row: dict[str, Any], sides: Sequence[tuple[str, str]], values: dict[str, list]) -> str:
    answers = row["answers"]
    cells = "".join(f"<td>{_answer(answers.get(side))}</td>" for side, _ in sides)
    passed = values.get("passed", [None] * len(sides))
    if any(p is not None for p in passed):
        differ = len(set(passed)) > 1
    else:  # nothing checks them
        differ = len({(answers.get(side) or {}).get("output") for side, _ in sides}) > 1
    change = passed[-1] - passed[0] if len(sides) == 2 and None not in passed else 0
    last = {1: '<b class="yes">won</b>', -1: '<b class="no">lost</b>'}.get(change, "")
    last = f"<td>{last}</td>" if len(sides) == 2 else ""
    return (
        f'<tr data-suite="{escape(suite)}" data-tags="{escape("|".join(row["tags"]))}" data-change="{change}" '
        f'data-differ="{int(differ)}" data-values="{escape(json.dumps(values))}">'
        f'<td><small>{escape(row["id"])}</small><div class="whole">{escape(row["prompt"])}</div></td>{cells}{last}</tr>'
    )


def summary(done: Any) -> str:
    """What a ``SuiteRun`` comes to: every measure by model, and the checks by tag, with 95 % intervals."""
    names, all_figures = list(done.answers), done.figures()
    lines = []
    for key, title in {"passed": "Checks passed", **{k: m.title for k, m in METRICS.items()}}.items():
        if key in all_figures["counts"]:
            share = key == "passed" or METRICS[key].share
            lines.append((title, all_figures["counts"][key], _cells(all_figures, names, key, share)))
    for tag in done.suite.tags:
        figures = done.figures(tag)
        if "passed" in figures["counts"]:
            lines.append((f"Checks passed: {tag}", figures["counts"]["passed"], _cells(figures, names, "passed", True)))
    if not lines:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in ("", "Prompts", *names))
    told = "".join(
        f"<tr><th>{escape(title)}</th><td>{count:,}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for title, count, cells in lines
    )
    left_out = (
        f" {done.undecided:,} answers are left out: the regular expression of their check took too long."
        if done.undecided
        else ""
    )
    return (
        f'<div class="card suite-summary"><h3>{escape(done.suite.name)}</h3>'
        f'<p class="note">Means over the prompts that every pane has answered, with 95 % intervals.{left_out}</p>'
        f"<table><tr>{head}</tr>{told}</table></div>"
    )


def _cells(figures: dict[str, Any], names: Sequence[str], key: str, share: bool) -> list[str]:
    def said(value: float) -> str:
        return f"{value:.0%}" if share else f"{value:.2f}"

    cells = []
    for name in names:
        around = figures["intervals"][name].get(key)
        ends = f" <small>{said(around[0])} to {said(around[1])}</small>" if around else ""
        cells.append(f"<b>{said(figures['means'][name][key])}</b>{ends}")
    return cells


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
        path.write_text(csv_of(answers, [side for side, _ in SIDES]), encoding="utf-8-sig", newline="")
    except OSError as error:
        raise StudioError(f"The answers cannot be handed out: {error.strerror}.", "Free some disk space.") from error
    return path
