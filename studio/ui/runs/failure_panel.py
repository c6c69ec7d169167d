"""A run that went wrong, on the Runs tab: why, the rows that are to blame, and a retry with what helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.runs import Run, RunSnapshot
from studio.runs.exit_reason import killed_for_memory
from studio.runs.label import Label
from studio.training.oom_remedies import Remedy, ladder_of, ran_out, relieved_run, slower
from studio.training.resume import resume_text
from studio.ui import views
from studio.ui.context import AppContext


@dataclass
class Trouble:
    card: gr.Column
    steps: gr.CheckboxGroup
    retry: gr.Button

    @property
    def parts(self) -> list[Any]:
        """What :func:`updates` updates."""
        return [self.card, self.steps]


def build() -> Trouble:
    with gr.Column(visible=False, elem_classes="card", elem_id="relief") as card:
        steps = gr.CheckboxGroup(
            [],
            label="Retry with",
            info="A new run with the changed recipe; this one stays as it is.",
            elem_id="relief-steps",
            interactive=True,
        )
        retry = gr.Button("Retry with selected changes", variant="primary", elem_id="retry", scale=0, min_width=180)
    return Trouble(card, steps, retry)


def failed(ended: dict[str, Any], kept: str = "") -> str:
    """How a run failed: the message, what memory it took, and the rows of the batch at which it diverged.

    Args:
        kept: what to say of the model that it has all the same.
    """
    fix = ended["fix"]
    if ended.get("reason") == "out_of_memory" and ended.get("estimated_memory_bytes"):
        fix = "Retry it with less, below."  # the terminal lists the steps, here they can be chosen
    fix = f"{fix} {kept}".strip()
    return views.message("bad", ended["what"], fix, ended.get("traceback", "")) + memory(ended) + rows(ended)


def interrupted(run: Run) -> str:
    """That the worker is gone, and whether the system may have ended it for memory."""
    killed = killed_for_memory(run)
    go_on = f"{resume_text(run)} On the command line: `python app.py resume {run.id}`."
    if killed is None:
        return views.message("bad", "Interrupted: the worker is gone without having finished.", go_on)
    return views.message("bad", killed.what, f"Retry it with less, below. {go_on}") + memory(killed.expected)


def memory(told: dict[str, Any]) -> str:
    """What a run that ran out of memory took, what was expected and what there was."""
    known = [
        ("Taken at most", told.get("run_memory_bytes")),
        ("Estimated", told.get("estimated_memory_bytes")),
        ("Available", told.get("available_bytes")),
    ]
    pairs = [(name, views.size(size)) for name, size in known if size is not None]
    if not pairs:
        return ""
    note = '<p class="note">Memory of the model and the training, without the libraries.</p>'
    return f'<div class="card trouble">{views.facts(pairs)}{note}</div>'


def rows(ended: dict[str, Any]) -> str:
    """The rows of the batch at which a run diverged, worst first."""
    named = ended.get("rows") or []
    if not named:
        return ""
    lines = "".join(
        f"<tr><td>{'–' if row.get('row') is None else format(row['row'], ',')}</td>"
        f"<td>{'not a number' if row.get('loss') is None else format(row['loss'], '.4g')}</td>"
        f"<td>{views.escape(str(row.get('text', '')))}</td></tr>"
        for row in named
    )
    title = "Rows that are to blame" if ended.get("blamed") else "Rows in this batch, highest loss first"
    return (
        f'<div class="card trouble"><h3>{title} (step {ended.get("step", 0):,})</h3>'
        f"<table><tr><th>Row</th><th>Loss</th><th>Text</th></tr>{lines}</table></div>"
    )


def remedies(run: Run, status: str, view: RunSnapshot) -> tuple[list[Remedy], list[str]]:
    """What a retry can change, and the keys of what should be enough."""
    ended = view.ended or {}
    if run.damage:
        return [], []
    if status == "failed" and ended.get("reason") == "diverged":
        return ([], []) if ended.get("blamed") else ([slower(run.recipe)], ["learning_rate"])
    told = ran_out(run, status, view)
    if told is None:
        return [], []
    recipe = run.recipe
    steps = ladder_of(recipe, told)
    return steps, [step.key for step in relieved_run(recipe, told)[1]] if steps else []


def updates(trouble: Trouble, run: Run, status: str, view: RunSnapshot) -> dict:
    """Show or hide the retry."""
    steps, enough = remedies(run, status, view)
    choices = [
        (f"{step.title}{f' · saves about {views.size(step.saves_bytes)}' if step.saves_bytes else ''}", step.key)
        for step in steps
    ]
    return {trouble.card: gr.update(visible=bool(steps)), trouble.steps: gr.update(choices=choices, value=enough)}


def retry(context: AppContext, run_id: str | None, keys: Sequence[str]) -> Run:
    """Submit a run's recipe with the chosen steps.

    Raises:
        StudioError: nothing is chosen, or the run or its recipe is not to be had.
    """
    run = Run.open(run_id or "")
    steps = [step for step in remedies(run, run.status, run.view())[0] if step.key in keys]
    if not steps:
        raise StudioError("Nothing is chosen that the retry should change.", "Choose at least one, or press Resume.")
    recipe = run.recipe
    for step in steps:
        recipe = step.apply(recipe)
    return context.launcher.submit(recipe, Label(parent=run.id))
