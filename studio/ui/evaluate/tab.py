"""The Evaluate tab: whether a run got better than its base, and what it cost."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.evaluation.prompt_files import ENDINGS
from studio.evaluation.report import partial_report, report_state, stop_report
from studio.evaluation.report_page import body
from studio.evaluation.suites import builtin_suites, load_suite, suites_for
from studio.runs import Run
from studio.ui import views
from studio.ui.compare import suite_table
from studio.ui.context import AppContext
from studio.ui.data import uploads
from studio.ui.wiring import QUEUED, QUIET, told
from studio.workspace import ASSETS


@dataclass
class EvaluateTab:
    run: gr.Dropdown
    suites: gr.Dropdown
    upload: gr.UploadButton
    start: gr.Button
    stop: gr.Button
    state: gr.HTML
    result: gr.HTML
    answers: gr.HTML
    page: gr.DownloadButton
    exports: gr.DownloadButton
    timer: gr.Timer

    @property
    def shown(self) -> list[Any]:
        """What :func:`show` updates."""
        return [self.start, self.stop, self.state, self.result, self.answers, self.page, self.exports, self.timer]


def build(context: AppContext) -> EvaluateTab:
    found = evaluated(context)
    first = found[0][1] if found else None
    with gr.Column(elem_classes="card"):
        with gr.Row(equal_height=False):
            run = gr.Dropdown(
                found,
                value=first,
                label="Run",
                info="The base model gets the same prompts.",
                allow_custom_value=True,  # its choices may be older than what is chosen elsewhere
                interactive=True,
                elem_id="evaluated",
            )
            suites = gr.Dropdown(
                builtin_suites(),
                value=_suites_of(first),
                label="Prompt suites",
                info="Run in addition to the held-out rows. None: the rows alone.",
                multiselect=True,
                allow_custom_value=True,
                interactive=True,
                elem_id="suites",
            )
        with gr.Row(elem_classes="bottom"):
            start = gr.Button("Evaluate", variant="primary", min_width=140, scale=0, elem_id="evaluate")
            stop = gr.Button("Cancel", variant="stop", visible=False, min_width=100, scale=0, elem_id="evaluate-cancel")
            upload = gr.UploadButton(
                "Add a suite file", file_types=list(ENDINGS), min_width=150, scale=0, elem_id="suite-file"
            )
            page = gr.DownloadButton(
                "Download the report", visible=False, min_width=180, scale=0, elem_id="report-page"
            )
            exports = gr.DownloadButton(
                "Download the answers", visible=False, min_width=220, scale=0, elem_id="suite-csv"
            )
    state = gr.HTML(nothing(found), elem_id="evaluation-state")
    with gr.Column():
        result = gr.HTML(elem_id="evaluation")
        script = (ASSETS / "suite.js").read_text(encoding="utf-8")
        answers = gr.HTML(elem_id="suite-answers", js_on_load=script)
    timer = gr.Timer(1.0, active=False)
    return EvaluateTab(run, suites, upload, start, stop, state, result, answers, page, exports, timer)


def evaluated(context: AppContext) -> list[tuple[str, str]]:
    """Runs with a model, newest first."""
    names = context.index.names(2.0)
    return [
        (f"{names.get(run.id, run.id)} · {status}", run.id) for run, status in context.index.look() if run.has_model
    ]


def nothing(runs: list[Any]) -> str:
    if runs:
        return views.empty("Not evaluated yet", "Press Evaluate: held-out rows and prompt suites, base beside tuned.")
    return views.empty("No tuned model yet", "Launch the recipe on the right; when its run has finished, evaluate it.")


def _suites_of(run_id: str | None) -> list[str]:
    try:
        return suites_for(Run.open(run_id).recipe) if run_id else []
    except StudioError:  # the run is gone
        return []


def show(context: AppContext, tab: EvaluateTab, run_id: str | None, starting: bool = False) -> dict[Any, Any]:
    """Updates for what the tab says of a run."""
    hidden = gr.update(visible=False)
    blank = {tab.result: "", tab.answers: "", tab.page: hidden, tab.exports: hidden}
    try:
        if not run_id:
            raise StudioError("There is no tuned model yet.", "Launch the recipe on the right.")
        run = Run.open(run_id)
        made, state = report_state(run)
    except StudioError:
        ready = {tab.start: gr.update(interactive=False), tab.stop: hidden, tab.timer: gr.update(active=False)}
        return {**blank, **ready, tab.state: nothing([])}
    working = starting or (state is not None and "error" not in state)
    updates: dict[Any, Any] = {
        tab.start: gr.update(interactive=not working, value="Evaluate again" if made else "Evaluate"),
        tab.stop: gr.update(visible=working),
        tab.timer: gr.update(active=working),
    }
    if working:
        told_so = state or {"what": "Starting", "done": 0, "total": 0}
        updates[tab.state] = views.working(told_so["what"], told_so["done"], told_so["total"])
        return updates if made else {**updates, **blank}
    partial = None if made else partial_report(run)
    if state:
        updates[tab.state] = views.message("bad", *state["error"], details=_log(run))
    elif partial:
        what = "Only the held-out rows have been evaluated."
        updates[tab.state] = views.message("calm", what, "Press Evaluate for the rest; what was answered is kept.")
    else:
        updates[tab.state] = "" if made else nothing([run])
    if not made and not partial:
        return {**updates, **blank}
    try:
        if not made:
            return {**updates, **blank, tab.result: f'<div class="card">{body(run, partial)}</div>'}
        card, answers = f'<div class="card">{body(run, made)}</div>', suite_table.html(made["suites"])
    except (StudioError, LookupError, TypeError, ValueError, AttributeError) as error:  # edited or cut off
        damaged = views.message("bad", "The report of this run is damaged.", "Evaluate it again.", repr(error)[:500])
        return {**updates, **blank, tab.state: damaged}
    return {
        **updates,
        tab.result: card,
        tab.answers: answers,
        tab.page: gr.update(visible=True, value=str(_handed_out(context, run))),
        tab.exports: gr.update(
            visible=bool(made["suites"]), value=str(suite_table.csv_file(context.downloads, run.id, made))
        ),
    }


def _handed_out(context: AppContext, run: Run) -> Any:
    """A copy of the report that the page may hand out."""
    copy = context.downloads / f"{run.id}-report.html"
    try:
        shutil.copyfile(run.folder / "report.html", copy)
    except OSError as error:
        raise StudioError(f"The report cannot be handed out: {error.strerror}.", f"It is in {run.folder}.") from error
    return copy


def _log(run: Run) -> str:
    try:
        return (run.folder / "report.log").read_text(encoding="utf-8", errors="replace")[-4000:]
    except OSError:
        return ""


def wire(context: AppContext, tab: EvaluateTab) -> dict[str, Any]:
    """Connect the buttons; returns the event that shows the newest (``fn``, ``inputs``, ``outputs``)."""

    def begin(run_id: str | None, suites: list[str] | None) -> dict:
        if not run_id:
            raise StudioError("No run is chosen.", "Train one first.")
        context.background.evaluate(Run.open(run_id), suites or [])
        return show(context, tab, run_id, starting=True)

    def end(run_id: str | None) -> dict:
        if run_id:
            stop_report(Run.open(run_id))
        return show(context, tab, run_id)

    def chosen(run_id: str | None) -> dict:
        return {**show(context, tab, run_id), tab.suites: _suites_of(run_id)}

    def look(run_id: str | None) -> dict:
        found = evaluated(context)
        newest = run_id or (found[0][1] if found else None)
        changed = {} if newest == run_id else {tab.suites: _suites_of(newest)}
        return {**show(context, tab, newest), tab.run: gr.update(choices=found, value=newest), **changed}

    def add(path: str, suites: list[str] | None) -> Any:
        load_suite(path)
        return [*(suites or []), uploads.keep_uploads([path], uploads.SUITES)]

    tab.start.click(told(begin), [tab.run, tab.suites], tab.shown, trigger_mode="once", **QUEUED)
    tab.stop.click(told(end), tab.run, tab.shown, **QUIET)
    tab.timer.tick(lambda run_id: show(context, tab, run_id), tab.run, tab.shown, **QUIET)
    tab.run.input(chosen, tab.run, [*tab.shown, tab.suites], **QUIET)
    tab.upload.upload(told(add), [tab.upload, tab.suites], tab.suites, **QUEUED)
    return {"fn": look, "inputs": tab.run, "outputs": [*tab.shown, tab.run, tab.suites], **QUIET}
