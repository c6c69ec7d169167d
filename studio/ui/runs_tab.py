"""The Runs tab: one run, live or finished: what it does, its curves, its log, and what can be done with it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.runs import Run, View, queue
from studio.runs.feed import Look, file_size
from studio.runs.label import Label
from studio.ui import overlay, run_actions, samples, ship_panel, trouble, views
from studio.ui.charts import MOST_RUNS, SEPARATOR, live_chart
from studio.ui.compare_tab import writes_text
from studio.ui.desk import Desk
from studio.ui.live import live, slot
from studio.ui.run_log import log_panel
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
    resume: gr.Button
    compare: gr.Button
    seen: gr.Textbox
    actions: run_actions.RunActions
    trouble: trouble.Trouble
    samples: gr.HTML
    ship: ship_panel.Ship


def build(desk: Desk) -> RunsTab:
    with gr.Column(elem_classes="card"):
        with gr.Row(equal_height=False):
            with gr.Column():
                # A look that began before a run was launched answers with choices that lack it. Without custom values
                # Gradio would then refuse every event that sends the run, although the next look brings it.
                run = gr.Dropdown(
                    choices(desk),
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
            stop = gr.Button("Stop and keep", variant="stop", visible=False, elem_id="stop")
            buttons = run_actions.build_buttons()
            resume = gr.Button("Resume", visible=False, min_width=100, elem_id="resume")
            compare = gr.Button(
                "Compare with the base", variant="primary", visible=False, min_width=230, elem_id="to-compare"
            )
    state = live(partial(follow, desk), TICK_SECONDS, slot(nothing()), elem_id="run-state")
    trouble_part = trouble.build()
    gr.HTML(slot(), elem_id="run-numbers")
    with gr.Column(elem_classes="card", visible=False) as chart_card:
        chart = live_chart(desk.feed, desk.index, elem_id="chart")
        apart = gr.HTML(elem_id="apart")
    samples_part = samples.build()
    ship = ship_panel.build()
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
        resume=resume,
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

    ship_panel.wire(ship, run)
    # the chart asks for its points at once, beside the look at the rest of the tab; and so does the state
    run.change(None, [run], [chart, state], js="run => [run ?? '', run ?? '']", **QUIET)
    gr.on([run.change, others.change], overlaid, [run, others], [chart, apart], **QUIET)
    return tab


def nothing() -> str:
    return views.empty("No run yet", "Launch the recipe on the right; its curves appear here as it learns.")


def choices(desk: Desk, max_age: float = 0.0, without: str | None = None) -> list[tuple[str, str]]:
    """The runs with their status, newest first."""
    statuses, names = desk.index.statuses(max_age), desk.index.names(TICK_SECONDS)
    return [(f"{names.get(id, id)}{SEPARATOR}{status}", id) for id, status in statuses.items() if id != without]


def signature(desk: Desk, run: Run | None, status: str) -> dict[str, str]:
    """For each part of the tab that Gradio shows, what changes when there is something new to show."""
    if run is None:
        return {}
    about = _about(run, status)
    return {
        "runs": f"{about} {queue.stamp()} {desk.index.version(TICK_SECONDS)}",
        "words": f"{run.id} {run.label}",
        "log": run.id,
        "ship": f"{about} {ship_panel.signature(run)}",
    }


def told(run: Run, view: View) -> dict[str, Any]:
    """The same for the parts that depend on the run's events, too."""
    return {"samples": samples.signature(run.id, view), "points": view.has_points}


def _about(run: Run, status: str) -> str:
    return f"{run.id} {status} {run.ending}"


def state(run: Run, status: str, look: Look, waits: bool = False) -> str:
    """What the run is doing, or how it ended and what to do; ``waits`` says that another run is going on."""
    view = look.view
    if look.reading:
        return views.working("Reading the run's events", *look.reading, "bytes")
    if status == "queued":
        return views.working("Waiting for the run before it" if waits else "Starting the worker")
    if status == "running":
        if run.ending:
            what = "Stopping" if run.stopping else "Pausing"
            return views.working(f"{what}: the step is finished and a checkpoint is written")
        if view.stage:
            stage = view.stage
            unit = "bytes" if stage["total"] > 1_000_000 else "rows"
            return views.working(stage["what"], stage["done"], stage["total"], unit)
        left = view.seconds_left(time.time())
        if not view.step:
            return views.working("The first step is being computed")
        return views.working("Training", view.step, view.max_steps, "steps", left)
    if status == "failed":
        return trouble.failed(view.ended)
    if status == "interrupted":
        return trouble.interrupted(run)
    took = f" in {views.duration(view.last_time - view.started['time'])}" if view.started and view.last_time else ""
    if status == "paused":
        at = f" at step {view.step} of {view.max_steps}" if view.started else " before it started"
        return views.message("warn", f"Paused{at}.", "Its device is free. Resume goes on to the very same weights.")
    if status == "stopped" and (view.ended or {}).get("what") == "Cancelled.":
        return views.message("warn", "Cancelled.", "No model was saved. Resume goes on from its last checkpoint.")
    if status == "stopped":
        if not view.started:
            return views.message("warn", "Stopped before it started.", "Launch it again when you like.")
        return views.message(
            "warn",
            f"Stopped at step {view.step} of {view.max_steps}{took}.",
            "Its model can be compared, and Resume goes on from here.",
        )
    return views.message("good", f"Finished{took}.", "Talk to it beside its base." if writes_text(run) else "")


def numbers(view: View) -> str:
    """The tiles."""
    if not view.started:
        return ""
    fmt = lambda value: "–" if value is None else f"{value:.4f}"  # noqa: E731
    left = view.seconds_left(time.time())
    speed = f"{view.tokens_per_second:,.0f}" if view.tokens_per_second else "–"
    memory = view.ended and view.ended.get("peak_memory_bytes")
    if memory:
        last = ("Peak memory", views.size(memory))
    elif view.ended:
        last = ("Took", views.duration(view.last_time - view.started["time"]))
    else:
        last = ("Time left", views.duration(left) if left else "–")
    measured, expected = (view.ended or {}).get("run_memory_bytes"), view.started.get("estimated_memory_bytes")
    said = ""
    if measured and expected and "reason" not in view.ended:
        said = (
            f'<p class="note">Memory of the model and the training: {views.size(measured)}, '
            f"and {views.size(expected)} was estimated. The rest of the peak are the libraries.</p>"
        )
    tiles = views.tiles(
        [
            ("Step", f"{view.step:,} of {view.max_steps:,}"),
            ("Training loss", fmt(view.loss)),
            ("Validation loss", fmt(view.eval_loss)),
            ("Epoch", f"{view.epoch:.2f}"),
            ("Tokens/s", speed),
            last,
        ]
    )
    return tiles + said


def confusion(run: Run, view: View) -> str:
    """How often each class of a classifier was taken for each other one, over the held-out rows; and its scores."""
    path, ended = run.folder / "confusion.json", view.ended or {}
    if "accuracy" not in ended or not path.exists():
        return ""
    found = json.loads(path.read_text(encoding="utf-8"))
    names, counts, columns = found["labels"], found["counts"], found["labels"]
    told = "Rows are what is true, columns what the model says"
    if found["multi_label"]:
        columns = ["found", "missed", "said wrongly", "rightly not said"]
        counts = [[hit, missed, wrong, rest] for (rest, wrong), (missed, hit) in counts]
        told = "One line for each class"
    head = "".join(f"<th>{views.escape(str(name))}</th>" for name in columns)
    most = max(1, *(count for line in counts for count in line))
    lines = ""
    for place, (name, line) in enumerate(zip(names, counts, strict=True)):
        right = {0, 3} if found["multi_label"] else {place}
        cells = "".join(
            f'<td style="--share:{count / most:.2f}" class="{"right" if at in right else "wrong"}">{count}</td>'
            for at, count in enumerate(line)
        )
        lines += f"<tr><th>{views.escape(str(name))}</th>{cells}</tr>"
    return (
        f'<div class="card confusion"><h3>Held-out rows by class</h3><p class="note">Accuracy '
        f"<b>{ended['accuracy']:.1%}</b>, macro-F1 <b>{ended['macro_f1']:.3f}</b>. {told}; each row and its prediction "
        f"stand in predictions.jsonl of the run's folder.</p><table><tr><th></th>{head}</tr>{lines}</table></div>"
    )


def warnings(view: View) -> str:
    """The last warnings; those with the same words are one, with the steps at which they came."""
    steps: dict[tuple[str, str], list[int]] = {}
    for warning in view.warnings:
        words = warning["what"], warning.get("fix", "")
        steps[words] = [*steps.pop(words, []), *([warning["step"]] if "step" in warning else [])]
    told = ""
    for (what, fix), at in list(steps.items())[-5:]:
        where = "" if not at else f"At step {at[0]:,}: " if len(at) == 1 else f"At {len(at)} steps, last {at[-1]:,}: "
        told += views.message("warn", where + what, fix)
    return told


def chosen(view: View) -> str:
    """How the worker computes: what it chose by trying it out or took from the recipe, folded."""
    told = (view.started or {}).get("choices") or []
    if not told:
        return ""
    cell = views.escape
    lines = "".join(
        f"<tr><th>{cell(one['what'])}</th><td><b>{cell(one['chosen'])}</b></td><td>{cell(one['why'])}</td></tr>"
        for one in told
    )
    return f'<details class="card chosen"><summary>How it computes</summary><table>{lines}</table></details>'


def follow(desk: Desk, request: dict[str, Any]) -> dict[str, Any]:
    """What the page does not show yet of the run that it shows; see :func:`studio.ui.live.live`."""
    run_id, seen, have = str(request.get("value") or ""), str(request.get("seen") or ""), request.get("have")
    try:
        run = Run.open(run_id) if run_id else None
    except StudioError as error:
        return {"parts": parts(views.problem(error)), "have": None}
    if run is None:
        return {"parts": parts(nothing()), "have": None, "news": _read(seen) != {} or not seen}
    statuses, status = _statuses(desk, run)
    known, sign = _read(seen), signature(desk, run, status)
    news = any(known.get(name) != value for name, value in sign.items())
    now = f"{_about(run, status)} {file_size(run.events_path)}"
    if have == now:
        return {"have": now, "news": news}
    look = desk.feed.look(run)
    if look.reading:
        now += f" {look.size}"  # the next answer shows how far it has got
    view = look.view
    shown = parts(
        state(run, status, look, waits="running" in statuses.values()),
        numbers(view) + confusion(run, view),
        warnings(view) + chosen(view),
    )
    news = news or any(known.get(name) != value for name, value in told(run, view).items())
    return {"parts": shown, "have": now, "news": news}


def _statuses(desk: Desk, run: Run | None, now: bool = False) -> tuple[dict[str, str], str]:
    """Of all runs, as they were at most a moment ago, and that of ``run``."""
    statuses = desk.index.statuses(TICK_SECONDS / 2)
    if run and (now or run.id not in statuses):
        statuses = desk.index.statuses()
    return statuses, statuses.get(run.id, "queued") if run else ""


def parts(state: str, numbers: str = "", warnings: str = "") -> dict[str, str]:
    """The HTML of the live parts of the tab."""
    return {"run-state": state, "run-numbers": numbers, "run-warnings": warnings}


def show(desk: Desk, tab: RunsTab, run_id: str | None, seen: str | None) -> dict:
    """Updates for the parts of the tab that Gradio shows; an empty dict if nothing has changed since ``seen``."""
    try:
        run = Run.open(run_id) if run_id else None
    except StudioError:
        return {}  # the live part says so
    _, status = _statuses(desk, run, now=not seen)
    known, sign = _read(seen), signature(desk, run, status)
    if run is None:
        return {} if known == sign and seen else {**empty(desk, tab), tab.seen: json.dumps(sign)}
    view = desk.feed.look(run).view
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
            tab.run: gr.update(choices=choices(desk, TICK_SECONDS), **({} if seen else {"value": run.id})),
            tab.others: gr.update(choices=choices(desk, TICK_SECONDS, without=run.id)),
            tab.chart: run.id,
            tab.stop: gr.update(visible=status == "running", interactive=not run.stopping),
            tab.resume: gr.update(visible=_resumes(status, view)),
            tab.compare: gr.update(visible=run.has_model and status != "running" and writes_text(run)),
            **run_actions.updates(desk, tab.actions, run, status),
        }
    if known.get("points") != sign["points"]:
        updates[tab.chart.card] = gr.update(visible=view.has_points)
    if known.get("words") != sign["words"]:
        updates |= run_actions.words(tab.actions, run.label)
    if known.get("ship") != sign["ship"]:
        updates |= ship_panel.updates(tab.ship, run, status)
    if known.get("log") != sign["log"]:
        updates[tab.log] = run.id
    return updates


def empty(desk: Desk, tab: RunsTab) -> dict:
    """Everything on the tab as it is without a run."""
    hidden = {button: gr.update(visible=False) for button in (tab.stop, tab.resume, tab.compare)}
    hidden |= {button: gr.update(visible=False) for button in (tab.actions.pause, tab.actions.cancel)}
    nothing_of = {
        tab.log: "",
        tab.chart: "",
        tab.chart.card: gr.update(visible=False),
        tab.samples: "",
        tab.trouble.card: gr.update(visible=False),
        **ship_panel.hidden(tab.ship),
        **run_actions.words(tab.actions, Label()),
    }
    return {
        tab.state: "",
        tab.run: gr.update(choices=choices(desk), value=None),
        **nothing_of,
        **hidden,
        **run_actions.listed(desk, tab.actions),
    }


def _resumes(status: str, view: View) -> bool:
    return status == "paused" or (status in ("interrupted", "stopped", "failed") and bool(view.started))


def _read(seen: str | None) -> dict:
    try:
        known = json.loads(seen or "{}")
    except ValueError:
        known = {}
    return known if isinstance(known, dict) else {}
