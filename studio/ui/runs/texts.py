"""What the Runs tab says of a run: its state, its numbers, a classifier's confusions, warnings, how it computes."""

from __future__ import annotations

import os
import time

from studio.data.classes import FILE as CLASSES
from studio.jobs.json_file import read_json
from studio.runs import Run, RunSnapshot
from studio.runs.feed import RunMetrics
from studio.training.resume import is_resumable, resume_text
from studio.ui import views
from studio.ui.runs import failure_panel


def nothing() -> str:
    return views.empty("No run yet", "Launch the recipe on the right; its curves appear here as it learns.")


def state(run: Run, status: str, look: RunMetrics, waits: bool = False) -> str:
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
    kept = "The earlier model is kept." if run.has_model else ""
    if status == "failed":
        return failure_panel.failed(view.ended or {"what": "The run failed.", "fix": "Its log says more."}, kept)
    if status == "interrupted":
        return failure_panel.interrupted(run)
    took = f" in {views.duration(view.last_time - view.started['time'])}" if view.started and view.last_time else ""
    if status == "paused":
        at = f" at step {view.step} of {view.max_steps}" if view.started else " before it started"
        return views.message("warn", f"Paused{at}.", f"Its device is free. {resume_text(run)}")
    if status == "stopped" and (view.ended or {}).get("what") == "Cancelled.":
        go_on = resume_text(run) if is_resumable(run, status) else "It has no checkpoint to resume from: run it again."
        return views.message("warn", "Cancelled.", f"{kept or 'No model was saved.'} {go_on}")
    if status == "stopped":
        if not view.started:
            return views.message("warn", "Stopped before it started.", "Launch it again when you like.")
        return views.message(
            "warn",
            f"Stopped at step {view.step} of {view.max_steps}{took}.",
            f"Its model can be compared. {resume_text(run)}",
        )
    return views.message("good", f"Finished{took}.", "Chat with it next to its base model." if writes_text(run) else "")


def damaged(run: Run, reason: str) -> str:
    """What of the run cannot be read."""
    fix = f"Restore the file in {run.folder} from a copy, or delete the run. The other runs are not affected."
    return views.message("bad", f"This run is damaged: {reason}", fix)


def numbers(view: RunSnapshot) -> str:
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
            f"and {views.size(expected)} was estimated. The remainder of the peak is library overhead.</p>"
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


def confusion(run: Run, view: RunSnapshot) -> str:
    """How often each class of a classifier was taken for each other one, over the held-out rows; and its scores."""
    ended = view.ended or {}
    found = read_json(run.folder / "confusion.json") if "accuracy" in ended and "macro_f1" in ended else None
    if found is None:
        return ""
    try:
        return _confusion_table(found, ended)
    except (LookupError, TypeError, ValueError) as error:
        return views.message(
            "warn", "confusion.json is damaged.", "Evaluate the run for its figures.", repr(error)[:300]
        )


def _confusion_table(found: dict, ended: dict) -> str:
    names, counts, columns = found["labels"], found["counts"], found["labels"]
    told = "Rows: true class; columns: predicted class"
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


def warnings(view: RunSnapshot) -> str:
    """The last warnings; those with the same words are one, with the steps at which they came."""
    steps: dict[tuple[str, str], list[int]] = {}
    for warning in view.warnings:
        words = warning["what"], warning.get("fix", "")
        steps[words] = [*steps.pop(words, []), *([warning["step"]] if "step" in warning else [])]
    told = ""
    if view.bad_events:
        lines = "1 line" if view.bad_events == 1 else f"{view.bad_events:,} lines"
        told += views.message(
            "warn", f"{lines} of events.jsonl cannot be read and are left out.", "The others are shown."
        )
    for (what, fix), at in list(steps.items())[-5:]:
        where = "" if not at else f"At step {at[0]:,}: " if len(at) == 1 else f"At {len(at)} steps, last {at[-1]:,}: "
        told += views.message("warn", where + what, fix)
    return told


def chosen(view: RunSnapshot) -> str:
    """How the worker computes: what follows from the machine and what the recipe sets, folded."""
    told = (view.started or {}).get("choices") or []
    if not told:
        return ""
    cell = views.escape
    lines = "".join(
        f"<tr><th>{cell(one['what'])}</th><td><b>{cell(one['chosen'])}</b></td><td>{cell(one['why'])}</td></tr>"
        for one in told
    )
    return f'<details class="card chosen"><summary>Performance choices</summary><table>{lines}</table></details>'


def writes_text(run: Run) -> bool:
    """Whether a tuned model can be talked to; a classifier's has its classes beside it. Reads no recipe: there may be
    a thousand runs."""
    return not os.path.exists(run.model_dir / CLASSES)
