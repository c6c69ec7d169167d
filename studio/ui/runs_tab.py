"""The Runs tab: one run, live or finished: what it does, its curves, its log, and what can be done with it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import gradio as gr

from studio.errors import StudioError
from studio.runs import Run, View, count_runs, list_runs
from studio.ui import samples, trouble, views
from studio.ui.charts import live_chart
from studio.ui.compare_tab import writes_text
from studio.ui.desk import Desk

LOG_BYTES = 6000


@dataclass
class RunsTab:
    run: gr.Dropdown
    state: gr.HTML
    numbers: gr.HTML
    chart: gr.HTML
    warnings: gr.HTML
    log: gr.HTML
    stop: gr.Button
    resume: gr.Button
    compare: gr.Button
    seen: gr.Textbox
    timer: gr.Timer
    trouble: trouble.Trouble
    samples: gr.HTML


def build(desk: Desk) -> RunsTab:
    with gr.Row(equal_height=False, elem_classes="card bottom"):
        with gr.Column(scale=4):
            run = gr.Dropdown(choices(), label="Run", interactive=True, elem_id="run")
        with gr.Column(scale=3), gr.Row():
            stop = gr.Button("Stop and keep", variant="stop", visible=False, elem_id="stop")
            resume = gr.Button("Resume", visible=False, min_width=100, elem_id="resume")
            compare = gr.Button(
                "Compare with the base", variant="primary", visible=False, min_width=230, elem_id="to-compare"
            )
    state = gr.HTML(nothing(), elem_id="run-state")
    trouble_part = trouble.build()
    numbers = gr.HTML(elem_id="run-numbers")
    with gr.Column(elem_classes="card", visible=False) as chart_card:
        chart = live_chart(desk.feed, elem_id="chart")
    samples_part = samples.build()
    warnings = gr.HTML(elem_id="run-warnings")
    with gr.Accordion("Log", open=False, elem_id="log-card"):
        log = gr.HTML(elem_id="run-log")
    seen = gr.Textbox("", visible="hidden", elem_id="seen")
    chart.card = chart_card
    return RunsTab(
        run,
        state,
        numbers,
        chart,
        warnings,
        log,
        stop,
        resume,
        compare,
        seen,
        gr.Timer(1.5),
        trouble_part,
        samples_part,
    )


def nothing() -> str:
    return views.empty("No run yet", "Launch the recipe on the right; its curves appear here as it learns.")


def choices() -> list[tuple[str, str]]:
    """The runs with their status, newest first."""
    return [(f"{run.id} · {run.status}", run.id) for run in list_runs()[:200]]


def signature(run: Run | None) -> dict[str, str]:
    """For each part of the tab, what changes when there is something new to show."""
    if run is None:
        return {}
    sizes = {p.name: p.stat().st_size if p.exists() else 0 for p in (run.events_path, run.log_path)}
    status = run.status
    return {
        "runs": f"{run.id} {status} {run.stopping} {count_runs()}",
        "events": f"{run.id} {status} {run.stopping} {sizes['events.jsonl']}",
        "log": f"{run.id} {sizes['log.txt']}",
    }


def state(run: Run, status: str, view: View) -> str:
    """What the run is doing, or how it ended and what to do."""
    if status == "queued":
        others = any(r.status == "running" for r in list_runs() if r.id != run.id)
        return views.working("Waiting for the run before it" if others else "Starting the worker")
    if status == "running":
        if run.stopping:
            return views.working("Stopping: the step is finished and a checkpoint is written")
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
    told = [(f"Step {w['step']:,}: " if w.get("step") else "", w) for w in view.warnings[-5:]]
    return "".join(views.message("warn", f"{at}{w['what']}", w.get("fix", "")) for at, w in told)


def log_tail(run: Run) -> str:
    """The end of the worker's output."""
    try:
        with run.log_path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        text = ""
    return f'<div id="log" class="mono">{views.escape(text) or "Nothing has been printed yet."}</div>'


def show(desk: Desk, tab: RunsTab, run_id: str | None, seen: str | None) -> dict:
    """Updates for everything on the tab; an empty dict if nothing has changed since ``seen``."""
    run = None
    if run_id:
        try:
            run = Run.open(run_id)
        except StudioError as error:
            return {tab.state: views.problem(error)}
    sign = signature(run)
    known = _read(seen)
    sampled = known.pop("samples", None)
    if run is None:
        return {} if known == sign and seen else {tab.state: nothing(), tab.seen: json.dumps(sign)}
    if known == sign:
        return {}
    status, view = run.status, desk.feed.view(run)
    news = samples.signature(run.id, view)
    updates: dict = {tab.seen: json.dumps({**sign, "samples": news})}
    if sampled != news:
        updates[tab.samples] = samples.html(view)
    if known.get("runs") != sign["runs"]:
        updates |= trouble.updates(tab.trouble, run, status, view)
    if known.get("runs") != sign["runs"]:
        updates |= {
            tab.run: gr.update(choices=choices(), value=run.id),
            tab.chart: run.id,
            tab.stop: gr.update(visible=status in ("running", "queued"), interactive=not run.stopping),
            tab.resume: gr.update(visible=status in ("interrupted", "stopped", "failed") and bool(view.started)),
            tab.compare: gr.update(visible=run.has_model and status != "running" and writes_text(run)),
        }
    if known.get("events") != sign["events"]:
        updates |= {
            tab.state: state(run, status, view),
            tab.numbers: numbers(view) + confusion(run, view),
            tab.chart.card: gr.update(visible=bool(view.curves)),
            tab.warnings: warnings(view),
        }
    if known.get("log") != sign["log"]:
        updates[tab.log] = log_tail(run)
    return updates


def _read(seen: str | None) -> dict:
    try:
        known = json.loads(seen or "{}")
    except ValueError:
        known = {}
    return known if isinstance(known, dict) else {}
