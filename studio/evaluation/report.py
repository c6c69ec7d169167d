"""Everything that tells whether a run got better, and what it cost.

It stands in the run's folder as ``report.json`` and as a page, ``report.html``. The studio has ``python app.py report``
make it in a process of its own and reads its progress from ``report.progress.json`` (:func:`report_state`).
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.evaluation.figures import SIDES, loss_figures
from studio.evaluation.files import write_json
from studio.evaluation.memorization import memorised
from studio.evaluation.scoring import evaluate
from studio.evaluation.suite_export import rows
from studio.evaluation.suite_run import SuiteRun, run_suite
from studio.evaluation.suites import BUILTIN, load_suite, suites_for
from studio.inference import Engine, Handle, Target
from studio.jobs.json_file import read_json
from studio.jobs.progress import Report, alive, quiet
from studio.runs import Run

_PLAIN_TEXT = BUILTIN / "plain-text.txt"
_SHOWN = 12  # held-out rows whose answers the report prints
_EVERY_SECONDS = 0.5


def report(run: Run, engine: Engine, progress: Report = quiet, suites: list[str] | None = None) -> dict[str, Any]:
    """Evaluate a run and write its report.

    Args:
        suites: names or files; None takes those that suit the recipe, and an empty list asks none.

    Returns:
        ``{"run", "scores", "suites", "plain_text", "memorised", "examples"}``: what :func:`studio.evaluation.evaluate`
        tells; for each suite its figures, by tag too, and the prompts that were won and lost; the loss on plain text
        that nobody trains on; overlaps with training answers; the first held-out answers side by side.

    Raises:
        StudioError: as ``evaluate`` and ``run_suite``.
    """
    scores = evaluate(run, engine, progress)
    saved = json.loads((run.folder / "evaluation.json").read_text(encoding="utf-8"))["details"]
    result: dict[str, Any] = {"run": run.id, "made": time.time(), "scores": scores}
    if run.recipe.model.task == "seq_cls":
        result |= {"suites": [], "plain_text": None, "memorised": [], "examples": []}
    else:
        pair = dict(zip(SIDES, (Target.base_of(run, name="base"), Target.run(run.id)), strict=True))
        asked = [
            run_suite(load_suite(name), list(pair.values()), engine, progress=progress)
            for name in (suites_for(run.recipe) if suites is None else suites)
        ]
        handles = {name: engine.open(target, progress) for name, target in pair.items()}
        result["suites"] = [suite_figures(each, run.id) for each in asked]
        result["plain_text"] = plain_text_loss(handles, progress)
        result["memorised"] = _learnt(run, saved, asked, progress)
        result["examples"] = _examples(saved)
    from studio.evaluation.report_page import page

    aside = run.folder / f"report.html.{os.getpid()}.part"
    aside.write_text(page(run, result), encoding="utf-8")
    aside.replace(run.folder / "report.html")
    write_json(run.folder / "report.json", result)  # the last: where it is, the page is too
    return result


def suite_figures(asked: SuiteRun, run_id: str) -> dict[str, Any]:
    """A suite's figures for the report, with the tuned model under the name ``tuned``."""
    named = SuiteRun(asked.suite, {"base": asked.answers["base"], "tuned": asked.answers[run_id]})
    answers = rows(named)
    both = [row for row in answers if len(row["answers"]) == 2 and not any(a["error"] for a in row["answers"].values())]
    passed = {row["id"]: [row["answers"][side]["passed"] for side in SIDES] for row in both}
    change = {id: 0 if None in pair else pair[1] - pair[0] for id, pair in passed.items()}
    return {
        "name": asked.suite.name,
        "prompts": len(asked.suite.prompts),
        "figures": named.figures(),
        "tags": {tag: named.figures(tag) for tag in asked.suite.tags},
        "won": [id for id, by in change.items() if by > 0],
        "lost": [id for id, by in change.items() if by < 0],
        "answers": answers,
    }


def plain_text_loss(handles: dict[str, Handle], progress: Report) -> dict[str, Any]:
    """The loss of both models on a page of everyday English: what a model forgets shows as a rise."""
    from studio.data import Encoded
    from studio.evaluation.row_loss import row_losses

    texts = [part.strip() for part in _PLAIN_TEXT.read_text(encoding="utf-8").split("\n\n") if part.strip()]
    totals, tokens = {}, []
    for name, handle in handles.items():
        encoded = []
        for text in texts:
            ids = handle.tokenizer(text, add_special_tokens=False)["input_ids"]
            encoded.append(Encoded(input_ids=ids, labels=list(ids), text=text))
        what = f"Measuring the {name} model on plain text"
        losses = row_losses(handle, encoded, lambda done, what=what: progress(what, done, len(texts)))
        totals[name], tokens = [loss.total for loss in losses], [loss.tokens for loss in losses]
    return {"rows": len(texts), "tokens": sum(tokens), **loss_figures(totals, tokens)}


def _learnt(run: Run, details: list[dict], asked: list[SuiteRun], progress: Report) -> list[dict[str, Any]]:
    """Pieces of training answers in what the tuned model has written, with where."""
    from studio.data import load_conversations, split_conversations

    progress("Looking for answers that were memorised", 0, 0)
    places: list[str] = []
    outputs: list[str] = []
    allowed: list[str] = []
    for entry in details:
        if entry["tuned"]["output"] is not None:
            places.append(f"held-out row {entry['row']}")
            outputs.append(entry["tuned"]["output"])
            allowed.append(" ".join([*(m["content"] or "" for m in entry["prompt"]), entry["reference"]]))
    for suite in asked:
        for prompt in suite.suite.prompts:
            answer = suite.answers[run.id].get(prompt.id)
            if answer and not answer.error:
                places.append(f"{suite.suite.name}, {prompt.id}")
                outputs.append(answer.output)
                allowed.append(" ".join([*(m["content"] for m in prompt.messages), prompt.reference or ""]))
    recipe = run.recipe
    training, _ = split_conversations(load_conversations(recipe.data), recipe.data, recipe.train.seed)
    answers = (
        (row["row"], message["content"] or "")
        for row in training
        for message in row.get("messages") or [{"role": "assistant", "content": row.get("text")}]
        if message["role"] == "assistant"
    )
    found = memorised(outputs, allowed, answers)
    return [{"where": places[o.answer], "row": o.row, "words": o.words, "text": o.text} for o in found]


def report_state(run: Run) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The report of a run if it has one that is not older than its model, and how the making of one goes:
    ``{"what", "done", "total"}``, or ``{"error": [what, fix]}``; None if none is being made."""
    path, going = run.folder / "report.json", _progress_path(run)
    try:
        state = json.loads(going.read_text(encoding="utf-8"))
        if "error" not in state and not alive(state["pid"], state["time"]):
            state = {
                "error": ["The evaluation ended before it was done.", "Start it again; what was answered is kept."]
            }
    except (OSError, ValueError, LookupError, TypeError, RecursionError):  # none is being made, or the file is damaged
        state = None
    made = read_json(path)
    if made and _changed(run) > path.stat().st_mtime:
        made = None  # the run went on since then
    return made, state


def partial_report(run: Run) -> dict[str, Any] | None:
    """What is known of a run whose report was cancelled or failed: the scores on the held-out rows, if they are there
    and not older than the model; in the shape of a report, with None for what was not measured."""
    path = run.folder / "evaluation.json"
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(scores, dict) or _changed(run) > path.stat().st_mtime:
            return None
    except (OSError, ValueError):  # not evaluated yet
        return None
    details = scores.pop("details", [])
    unknown = {"suites": [], "plain_text": None, "memorised": None}
    return {"run": run.id, "scores": scores, **unknown, "examples": _examples(details)}


def _examples(details: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first held-out answers that have a reference."""
    return [entry for entry in details if entry.get("reference") is not None][:_SHOWN]


class Told:
    """A :data:`studio.jobs.progress.Report` that writes down how far a report is, for other processes."""

    def __init__(self, run: Run, pid: int | None = None):
        self._path, self._pid, self._last = _progress_path(run), pid or os.getpid(), 0.0
        self("Starting", 0, 0)

    def __call__(self, what: str, done: int, total: int) -> None:
        if time.monotonic() - self._last > _EVERY_SECONDS or not done:
            self._last = time.monotonic()
            write_json(self._path, {"pid": self._pid, "time": time.time(), "what": what, "done": done, "total": total})

    def ended(self, error: StudioError | None = None) -> None:
        """The report is there, or why it is not."""
        if error:
            write_json(self._path, {"error": [error.what, error.fix]})
        else:
            self._path.unlink(missing_ok=True)


def stop_report(run: Run) -> None:
    """End the making of a report; the answers so far are kept."""
    try:
        state = json.loads(_progress_path(run).read_text(encoding="utf-8"))
        if alive(state["pid"], state["time"]):
            os.kill(state["pid"], signal.SIGTERM)
    except (OSError, ValueError, KeyError):  # it has just ended
        return
    finally:
        _progress_path(run).unlink(missing_ok=True)


def _progress_path(run: Run) -> Path:
    return run.folder / "report.progress.json"


def _changed(run: Run) -> float:
    return max((path.stat().st_mtime for path in run.model_dir.glob("*.safetensors")), default=0.0)
