"""The Runs tab: one run, live or finished: what it does, its curves, its log, and what can be done with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.runs import Run, RunSnapshot, queue
from studio.runs.feed import file_size
from studio.runs.label import Label
from studio.training.checkpoints import checkpoint_names
from studio.ui import views
from studio.ui.context import AppContext
from studio.ui.live import live, slot
from studio.ui.runs import actions as run_actions
from studio.ui.runs import export_panel, overlay, resume_panel, samples, texts
from studio.ui.runs import failure_panel as trouble
from studio.ui.runs.charts import MOST_RUNS, SEPARATOR, live_chart
from studio.ui.runs.log import log_panel
from studio.ui.runs.texts import writes_text
from studio.ui.wiring import QUIET

TICK_SECONDS = 1.5


@dataclass
class RunsTab:
    run: gr.Dropdown
    state: gr.HTML
    chart: gr.HTML
    others: gr.Dropdown
    apart: gr.HTML
    log: gr.HTML
    stop: gr.Button
    resume: resume_panel.ResumePanel
    compare: gr.Button
    seen: gr.Textbox
    actions: run_actions.RunActions
    trouble: trouble.Trouble
    samples: gr.HTML
    ship: export_panel.Ship


def build(context: AppContext) -> RunsTab:
    with gr.Column(elem_classes="card"):
        with gr.Row(equal_height=False):
            with gr.Column():
                # A look that began before a run was launched answers with choices that lack it. Without custom values
                # Gradio would then refuse every event that sends the run, although the next look brings it.
                run = gr.Dropdown(
                    choices(context),
                    label="Run",
                    info="Newest first.",
                    allow_custom_value=True,
                    interactive=True,
                    elem_id="run",
                )
            with gr.Column():
                others = gr.Dropdown(
                    [],
                    label="Compare with other runs",
                    info=f"Up to {MOST_RUNS - 1}, drawn over this one; what differs in their recipes is told below.",
                    multiselect=True,
                    max_choices=MOST_RUNS - 1,
                    interactive=True,
                    elem_id="others",
                )
        with gr.Row(elem_classes="run-actions"):
            stop = gr.Button("Stop and save", variant="stop", visible=False, elem_id="stop")
            buttons = run_actions.build_buttons()
            resume = gr.Button("Resume", visible=False, min_width=100, elem_id="resume")
            compare = gr.Button(
                "Compare with the base", variant="primary", visible=False, min_width=230, elem_id="to-compare"
            )
    state = live(partial(follow, context), TICK_SECONDS, slot(texts.nothing()), elem_id="run-state")
    resume_part = resume_panel.build(resume)
    trouble_part = trouble.build()
    gr.HTML(slot(), elem_id="run-numbers")
    with gr.Column(elem_classes="card", visible=False) as chart_card:
        chart = live_chart(context.feed, context.index, elem_id="chart")
        apart = gr.HTML(elem_id="apart")
    samples_part = samples.build()
    ship = export_panel.build()
    gr.HTML(slot(), elem_id="run-warnings")
    with gr.Accordion("Log", open=False, elem_id="log-card"):
        log = log_panel(elem_id="run-log")
    actions = run_actions.build(buttons)
    seen = gr.Textbox("", visible="hidden", elem_id="seen")
    chart.card = chart_card
    tab = RunsTab(
        run=run,
        state=state,
        chart=chart,
        others=others,
        apart=apart,
        log=log,
        stop=stop,
        resume=resume_part,
        compare=compare,
        seen=seen,
        actions=actions,
        trouble=trouble_part,
        samples=samples_part,
        ship=ship,
    )

    def overlaid(run_id: str | None, chosen: list[str] | None) -> tuple:
        ids = overlay.together(run_id, chosen)
        return gr.update(others=ids[1:]), overlay.apart(ids)

    export_panel.wire(ship, run)
    resume_panel.wire(resume_part, run)
    # the chart asks for its points at once, beside the look at the rest of the tab; and so does the state
    run.change(None, [run], [chart, state], js="run => [run ?? '', run ?? '']", **QUIET)
    gr.on([run.change, others.change], overlaid, [run, others], [chart, apart], **QUIET)
    return tab


def choices(context: AppContext, max_age: float = 0.0, without: str | None = None) -> list[tuple[str, str]]:
    """The runs with their status, newest first."""
    statuses, names = context.index.statuses(max_age), context.index.names(TICK_SECONDS)
    damaged = context.index.damages(TICK_SECONDS)
    return [
        (f"{names.get(id, id)}{SEPARATOR}{status}{' (damaged)' if id in damaged else ''}", id)
        for id, status in statuses.items()
        if id != without
    ]


def signature(context: AppContext, run: Run | None, status: str) -> dict[str, str]:
    """For each part of the tab that Gradio shows, what changes when there is something new to show."""
    if run is None:
        return {}
    about = _about(run, status)
    return {
        "runs": f"{about} {queue.stamp()} {context.index.version(TICK_SECONDS)}",
        "words": f"{run.id} {run.label}",
        "log": run.id,
        "continue": f"{run.id} {status}",
        "ship": f"{about} {export_panel.signature(run)}",
    }


def told(run: Run, view: RunSnapshot) -> dict[str, Any]:
    """The same for the parts that depend on the run's events, too."""
    return {"samples": samples.signature(run.id, view), "points": view.has_points}


def _about(run: Run, status: str) -> str:
    ended = status not in run_actions.LIVE
    return f"{run.id} {status} {run.ending} {checkpoint_names(run.checkpoints_dir) if ended else ''}"


def follow(context: AppContext, request: dict[str, Any]) -> dict[str, Any]:
    """What the page does not show yet of the run that it shows; see :func:`studio.ui.live.live`."""
    run_id, seen, have = str(request.get("value") or ""), str(request.get("seen") or ""), request.get("have")
    try:
        run = Run.open(run_id) if run_id else None
    except StudioError as error:
        return {"parts": parts(views.problem(error)), "have": None}
    if run is None:
        return {"parts": parts(texts.nothing()), "have": None, "news": _read(seen) != {} or not seen}
    statuses, status = _statuses(context, run)
    known, sign = _read(seen), signature(context, run, status)
    news = any(known.get(name) != value for name, value in sign.items())
    damage = context.index.damages(TICK_SECONDS).get(run.id, "")
    now = f"{_about(run, status)} {file_size(run.events_path)} {damage}"
    if have == now:
        return {"have": now, "news": news}
    look = context.feed.look(run)
    if look.reading:
        now += f" {look.size}"  # the next answer shows how far it has got
    view = look.view
    waits = "running" in statuses.values()
    shown = parts(
        texts.damaged(run, damage) if damage else texts.state(run, status, look, waits=waits),
        texts.numbers(view) + texts.confusion(run, view),
        texts.warnings(view) + texts.chosen(view),
    )
    news = news or any(known.get(name) != value for name, value in told(run, view).items())
    return {"parts": shown, "have": now, "news": news}


def _statuses(context: AppContext, run: Run | None, now: bool = False) -> tuple[dict[str, str], str]:
    """Of all runs, as they were at most a moment ago, and that of ``run``."""
    statuses = context.index.statuses(TICK_SECONDS / 2)
    if run and (now or run.id not in statuses):
        statuses = context.index.statuses()
    return statuses, statuses.get(run.id, "queued") if run else ""


def parts(state: str, numbers: str = "", warnings: str = "") -> dict[str, str]:
    """The HTML of the live parts of the tab."""
    return {"run-state": state, "run-numbers": numbers, "run-warnings": warnings}


def show(context: AppContext, tab: RunsTab, run_id: str | None, seen: str | None) -> dict:
    """Updates for the parts of the tab that Gradio shows; an empty dict if nothing has changed since ``seen``."""
    try:
        run = Run.open(run_id) if run_id else None
    except StudioError:
        return {}  # the live part says so
    _, status = _statuses(context, run, now=not seen)
    known, sign = _read(seen), signature(context, run, status)
    if run is None:
        return {} if known == sign and seen else {**empty(context, tab), tab.seen: json.dumps(sign)}
    view = context.feed.look(run).view
    sign |= told(run, view)
    if known == sign:
        return {}
    updates: dict = {tab.seen: json.dumps(sign), **({} if seen else {tab.state: run.id})}
    if known.get("samples") != sign["samples"]:
        updates[tab.samples] = samples.html(view)
    if known.get("runs") != sign["runs"]:
        updates |= {
            **trouble.updates(tab.trouble, run, status, view),
            # a tick that began before another run was chosen must not choose the old one again
            tab.run: gr.update(choices=choices(context, TICK_SECONDS), **({} if seen else {"value": run.id})),
            tab.others: gr.update(choices=choices(context, TICK_SECONDS, without=run.id)),
            tab.chart: run.id,
            tab.stop: gr.update(visible=status == "running", interactive=not run.stopping),
            **resume_panel.updates(tab.resume, run, status, known.get("continue") != sign["continue"]),
            tab.compare: gr.update(visible=run.has_model and status != "running" and writes_text(run)),
            **run_actions.updates(context, tab.actions, run, status),
        }
    if known.get("points") != sign["points"]:
        updates[tab.chart.card] = gr.update(visible=view.has_points)
    if known.get("words") != sign["words"]:
        updates |= run_actions.words(tab.actions, run.label)
    if known.get("ship") != sign["ship"]:
        updates |= export_panel.updates(tab.ship, run, status)
    if known.get("log") != sign["log"]:
        updates[tab.log] = run.id
    return updates


def empty(context: AppContext, tab: RunsTab) -> dict:
    """Everything on the tab as it is without a run."""
    hidden = {button: gr.update(visible=False) for button in (tab.stop, tab.compare)}
    hidden |= resume_panel.hidden(tab.resume)
    hidden |= {button: gr.update(visible=False) for button in (tab.actions.pause, tab.actions.cancel)}
    nothing_of = {
        tab.log: "",
        tab.chart: "",
        tab.chart.card: gr.update(visible=False),
        tab.samples: "",
        tab.trouble.card: gr.update(visible=False),
        **export_panel.hidden(tab.ship),
        **run_actions.words(tab.actions, Label()),
    }
    return {
        tab.state: "",
        tab.run: gr.update(choices=choices(context), value=None),
        **nothing_of,
        **hidden,
        **run_actions.listed(context, tab.actions),
    }


def _read(seen: str | None) -> dict:
    try:
        known = json.loads(seen or "{}")
    except ValueError:
        known = {}
    return known if isinstance(known, dict) else {}
