"""The whole dataset in numbers, below the rows of the Data tab: made in the background and kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import gradio as gr

from studio.data.quality_report import INVALID, KINDS, Finding, Report, severity
from studio.errors import StudioError
from studio.recipe import Recipe
from studio.training.check import cancel, check_state
from studio.training.clean import DEFAULT, REMOVABLE
from studio.ui import views
from studio.ui.context import AppContext
from studio.ui.form import Form
from studio.ui.wiring import QUEUED, QUIET, told
from studio.workspace import ASSETS

_BARS = 220  # pixels of height


@dataclass
class ReportPanel:
    start: gr.Button
    stop: gr.Button
    result: gr.HTML
    timer: gr.Timer
    cleaning: gr.Column
    without: gr.CheckboxGroup
    clean: gr.Button
    outcome: gr.HTML
    cleaned: gr.Textbox
    download: gr.DownloadButton
    use: gr.Button


def build() -> ReportPanel:
    with gr.Column(elem_classes="card"):
        with gr.Row(elem_classes="middle"):
            gr.HTML("<h3>Dataset check</h3>")
            start = gr.Button("Check all rows", min_width=140, scale=0, elem_id="check-rows")
            stop = gr.Button("Cancel", variant="stop", visible=False, min_width=100, scale=0, elem_id="check-cancel")
        script = (ASSETS / "report.js").read_text(encoding="utf-8")
        result = gr.HTML(nothing(), elem_id="report", js_on_load=script)
        cleaned = gr.Textbox("", visible="hidden")  # in the column below it would be shown with it
        with gr.Column(visible=False) as cleaning:
            without = gr.CheckboxGroup(
                [],
                label="Create a cleaned copy, removing:",
                info="Invalid rows are always left out. The first of each set of duplicates is kept.",
                elem_id="clean-without",
                interactive=True,
            )
            with gr.Row(elem_classes="bottom"):
                clean = gr.Button("Make the cleaned copy", min_width=220, scale=0, elem_id="clean")
                download = gr.DownloadButton(
                    "Download it (JSONL)", visible=False, min_width=200, scale=0, elem_id="clean-download"
                )
                use = gr.Button("Train on it", visible=False, min_width=120, scale=0, elem_id="clean-use")
            outcome = gr.HTML(elem_id="clean-outcome")
    timer = gr.Timer(1.0, active=False)
    return ReportPanel(start, stop, result, timer, cleaning, without, clean, outcome, cleaned, download, use)


def wire(context: AppContext, form: Form, panel: ReportPanel) -> tuple[dict, dict]:
    """Connect the buttons; returns what handlers of others need to show the state, and to check (``fn``, ...)."""
    fields = form.components()
    outputs = [panel.start, panel.stop, panel.result, panel.timer, panel.cleaning, panel.without]

    def look(values: dict) -> tuple:
        return show(form.read(values))

    def begin(values: dict) -> tuple:
        recipe = form.read(values).check()
        context.background.check_rows(recipe)
        return show(recipe, starting=True)

    def end(values: dict) -> tuple:
        recipe = form.read(values)
        cancel(recipe)
        return show(recipe)

    def make(values: dict) -> Iterator[tuple]:
        hidden = gr.update(visible=False)
        yield views.working("Writing the cleaned copy"), gr.skip(), hidden, hidden
        try:
            path, download, said = context.background.clean(form.read(values).check(), values[panel.without] or [])
        except StudioError as error:
            yield views.problem(error), gr.skip(), hidden, hidden
            return
        yield (
            views.message("good", "Cleaned", said),
            str(path),
            gr.update(visible=True, value=str(download)),
            gr.update(visible=True),
        )

    refresh = {"fn": look, "inputs": fields, "outputs": outputs, **QUIET}
    check = {"fn": told(begin), "inputs": fields, "outputs": outputs, **QUEUED}
    panel.start.click(**check)
    panel.stop.click(end, fields, outputs, **QUIET)
    panel.timer.tick(**refresh)
    panel.clean.click(
        make, {*fields, panel.without}, [panel.outcome, panel.cleaned, panel.download, panel.use], **QUEUED
    )
    return refresh, check


def show(recipe: Recipe, starting: bool = False) -> tuple:
    """Updates for start, cancel, result, timer, and for what makes a cleaned copy."""
    try:
        if recipe.problems():
            raise StudioError("The recipe has problems.", "Correct what is marked above.")
        report, state = check_state(recipe)
    except StudioError as error:
        return _shown(views.message("warn", error.what, error.fix), False, again=False)
    if report:
        return _shown(html(report), False, again=False, report=report)
    if starting or (state and state["state"] == "working"):
        rows = state["rows"] if state else 0
        return _shown(views.working(f"Reading, encoding and checking: {rows:,} rows so far"), True)
    if state:
        return _shown(views.message("bad", *state["error"]), False)
    return _shown(nothing(), False)


def _shown(content: str, working: bool, again: bool = True, report: Report | None = None) -> tuple:
    start = gr.update(visible=again and not working)
    kinds = [f.kind for f in report.findings if f.kind in REMOVABLE] if report else []
    choices = gr.update(
        choices=[(f"{KINDS[kind][1]} ({report.found(kind):,})", kind) for kind in kinds],
        value=[kind for kind in kinds if kind in DEFAULT],
        visible=bool(kinds),
    )
    invalid = report and any(report.found(kind) for kind in INVALID)
    wanted = gr.update(visible=bool(kinds or invalid))
    return start, gr.update(visible=working), content, gr.Timer(active=working), wanted, choices


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
            ("Tokens per epoch", f"{report.tokens:,}"),
            ("Tokens in loss", f"{share:.1%}"),
            ("Longest row", f"{report.longest:,} tokens"),
            ("Held out", f"{report.held_out:,} rows"),
            (f"Padding in batches of {report.batch_size}", f"{report.padding:.1%}"),
            ("Packing efficiency", f"{report.packing:.1%}"),
        ],
        4,
    )
    found = "".join(_finding(finding) for finding in report.findings)
    found = found or views.message("good", "Nothing was found.", "Every row is kept whole.")
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in report.notes)
    return tiles + _histogram(report) + _turns(report) + notes + found


def _turns(report: Report) -> str:
    """How many messages the conversations have, in a sentence."""
    if not report.turns:
        return ""
    most = sorted(report.turns, key=lambda pair: -pair[1])
    said = ", ".join(f"{messages} in {count:,}" for messages, count in most[:6])
    rest = sum(count for _, count in most[6:])
    more = f", other numbers in {rest:,}" if rest else ""
    return f'<p class="note">Messages in a conversation: {said}{more}.</p>'


def _finding(finding: Finding) -> str:
    kind, what, fix = severity(finding)
    sign = {"bad": "✕", "warn": "!", "note": "i"}[kind]
    rows = "".join(
        f'<tr><td class="n"><button class="open" data-row="{number}">row {number:,}</button></td>'
        f'<td dir="auto">{escape(text)}</td></tr>'
        for number, text in finding.rows
    )
    more = finding.count - len(finding.rows)
    rows += f'<tr><td></td><td class="note">and {more:,} more</td></tr>' if more else ""
    button = f'<button class="open" data-flag="{finding.kind}">Show the rows</button>'
    head = f"<b>{sign} {finding.count:,} row{'s'[: finding.count != 1]}: {escape(what)}.</b> {escape(fix)}{button}"
    style = {"bad": "bad", "warn": "warn", "note": "calm"}[kind]
    return f'<details class="message {style} finding"><summary>{head}</summary><table>{rows}</table></details>'


def _histogram(report: Report) -> str:
    """Lengths in tokens as bars; max_length is a line that can be moved, and what it cuts has another colour."""
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
            f'<rect{cut} data-from="{start}" x="{index * step + 0.5:.1f}" y="{height - tall:.1f}" '
            f'width="{step - 1:.1f}" height="{tall:.1f}"><title>{label}</title></rect>'
        )
    span = len(report.histogram) * report.bin_tokens
    ticks = "".join(
        f'<text x="{min(width - 4, width * part / 4):.0f}" y="{height + 16}" '
        f'text-anchor="{"start" if not part else "end" if part == 4 else "middle"}">{span * part // 4:,}</text>'
        for part in range(5)
    )
    x = width * min(1.0, report.max_length / span)
    side, anchor = (-8, "end") if x > width / 2 else (8, "start")
    line = (
        f'<g class="limit" transform="translate({x:.1f} 0)" tabindex="0" role="slider" aria-label="max_length" '
        f'aria-valuemin="8" aria-valuemax="{span}" aria-valuenow="{report.max_length}">'
        f'<rect x="-7" y="0" width="14" height="{height}"></rect><line x1="0" x2="0" y1="0" y2="{height}"></line>'
        f'<rect class="grip" x="-4" y="18" width="8" height="22" rx="3"></rect>'
        f'<text x="{side}" y="12" text-anchor="{anchor}">max_length {report.max_length:,}</text></g>'
    )
    cut_rows = sum(count for length, count in report.lengths if length > report.max_length)
    cuts = f"{cut_rows:,} row{'s'[: cut_rows != 1]}" if cut_rows else "no row"
    said = f"max_length {report.max_length:,} cuts {cuts}"
    return (
        f'<figure class="lengths" data-span="{span}" data-lengths="{json.dumps(report.lengths)}">'
        "<figcaption>Length of the rows in tokens. Move the line to see what another max_length would cut. "
        f"<output>{said}</output></figcaption>"
        f'<svg viewBox="0 0 {width} {height + foot}" role="img" aria-label="Histogram of the lengths in tokens">'
        f"{''.join(bars)}{line}{ticks}</svg></figure>"
    )
