"""The whole dataset in numbers, below the rows of the Data tab: made in the background and kept."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import gradio as gr

from studio.data.report import Finding, Report, severity
from studio.errors import StudioError
from studio.recipe import Recipe
from studio.training.check import cancel, check_state
from studio.ui import views
from studio.ui.desk import Desk
from studio.ui.form import Form
from studio.ui.wiring import QUIET, told

_BARS = 220  # pixels of height


@dataclass
class ReportPanel:
    start: gr.Button
    stop: gr.Button
    result: gr.HTML
    timer: gr.Timer


def build() -> ReportPanel:
    with gr.Column(elem_classes="card"):
        with gr.Row(elem_classes="bottom"):
            gr.HTML("<h3>The whole dataset</h3>")
            start = gr.Button("Check all rows", min_width=140, scale=0, elem_id="check-rows")
            stop = gr.Button("Cancel", variant="stop", visible=False, min_width=100, scale=0, elem_id="check-cancel")
        result = gr.HTML(nothing(), elem_id="report")
    return ReportPanel(start, stop, result, gr.Timer(1.0, active=False))


def wire(desk: Desk, form: Form, panel: ReportPanel) -> dict:
    """Connect the buttons; returns what a handler of others needs to show the state (``fn``, ``inputs``, ...)."""
    fields = form.components()
    outputs = [panel.start, panel.stop, panel.result, panel.timer]

    def look(values: dict) -> tuple:
        return show(form.read(values))

    def begin(values: dict) -> tuple:
        recipe = form.read(values).check()
        desk.check_rows(recipe)
        return show(recipe, starting=True)

    def end(values: dict) -> tuple:
        recipe = form.read(values)
        cancel(recipe)
        return show(recipe)

    refresh = {"fn": look, "inputs": fields, "outputs": outputs, **QUIET}
    panel.start.click(told(begin), fields, outputs, api_visibility="private")
    panel.stop.click(end, fields, outputs, **QUIET)
    panel.timer.tick(**refresh)
    return refresh


def show(recipe: Recipe, starting: bool = False) -> tuple:
    """Updates for start, cancel, result and timer."""
    try:
        if recipe.problems():
            raise StudioError("The recipe has problems.", "Mend what is marked above.")
        report, state = check_state(recipe)
    except StudioError as error:
        return _shown(views.message("warn", error.what, error.fix), False)
    if report:
        return _shown(html(report), False, again=False)
    if starting or (state and state["state"] == "working"):
        rows = state["rows"] if state else 0
        return _shown(views.working(f"Reading, encoding and checking: {rows:,} rows so far"), True)
    if state:
        return _shown(views.message("bad", *state["error"]), False)
    return _shown(nothing(), False)


def _shown(content: str, working: bool, again: bool = True) -> tuple:
    start = gr.update(visible=again and not working)
    return start, gr.update(visible=working), content, gr.Timer(active=working)


def nothing() -> str:
    return views.empty(
        "Not checked yet",
        "Check all rows for what harms a training: rows that are left out or cut, duplicates, contradictions, "
        "prompts on both sides of the split, keys and passwords.",
    )


def html(report: Report) -> str:
    """The report: numbers, lengths, and findings with their rows folded."""
    share = report.trained_tokens / max(1, report.tokens)
    tiles = views.tiles(
        [
            ("Rows", f"{report.rows:,}"),
            ("Kept", f"{report.kept:,}"),
            ("Tokens an epoch", f"{report.tokens:,}"),
            ("Carry loss", f"{share:.1%}"),
            ("Longest row", f"{report.longest:,} tokens"),
            ("Padding", f"{report.padding:.1%}"),
        ]
    )
    found = "".join(_finding(finding) for finding in report.findings)
    found = found or views.message("good", "Nothing was found.", "Every row is kept whole.")
    return tiles + _histogram(report) + found


def _finding(finding: Finding) -> str:
    kind, what, fix = severity(finding)
    sign = {"bad": "✕", "warn": "!", "note": "i"}[kind]
    rows = "".join(
        f'<tr><td class="n">row {number:,}</td><td dir="auto">{escape(text)}</td></tr>' for number, text in finding.rows
    )
    more = finding.count - len(finding.rows)
    rows += f'<tr><td></td><td class="note">and {more:,} more</td></tr>' if more else ""
    head = f"<b>{sign} {finding.count:,} row{'s'[: finding.count != 1]}: {escape(what)}.</b> {escape(fix)}"
    style = {"bad": "bad", "warn": "warn", "note": "calm"}[kind]
    return f'<details class="message {style} finding"><summary>{head}</summary><table>{rows}</table></details>'


def _histogram(report: Report) -> str:
    """Lengths in tokens as bars, with max_length as a line and what it cuts in another colour and hatched."""
    if not report.histogram:
        return ""
    most = max(count for _, count in report.histogram)
    width, height, foot = 860, _BARS, 22
    step = width / len(report.histogram)
    bars = []
    for index, (start, count) in enumerate(report.histogram):
        tall = (height - 10) * count / most
        cut = ' class="cut-bar"' if start >= report.max_length else ""
        label = f"{count:,} rows of {start:,} to {start + report.bin_tokens - 1:,} tokens"
        bars.append(
            f'<rect{cut} x="{index * step + 0.5:.1f}" y="{height - tall:.1f}" width="{step - 1:.1f}" '
            f'height="{tall:.1f}"><title>{label}</title></rect>'
        )
    span = len(report.histogram) * report.bin_tokens
    ticks = "".join(
        f'<text x="{min(width - 4, width * part / 4):.0f}" y="{height + 16}" '
        f'text-anchor="{"start" if not part else "end" if part == 4 else "middle"}">{span * part // 4:,}</text>'
        for part in range(5)
    )
    line = ""
    if report.max_length < span:
        x = width * report.max_length / span
        side, anchor = (x - 5, "end") if x > width / 2 else (x + 5, "start")
        line = (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"></line>'
            f'<text x="{side:.1f}" y="12" text-anchor="{anchor}">max_length {report.max_length:,}</text>'
        )
    return (
        '<figure class="lengths"><figcaption>Length of the rows in tokens</figcaption>'
        f'<svg viewBox="0 0 {width} {height + foot}" role="img" aria-label="Histogram of the lengths in tokens">'
        f"{''.join(bars)}{line}{ticks}</svg></figure>"
    )
