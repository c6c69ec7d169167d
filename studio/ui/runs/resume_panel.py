"""Resuming and continuing a run on the Runs tab: what has changed since its checkpoint, and how far it goes on."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.runs import Run
from studio.runs.origin import Change
from studio.training.extend import default_schedule, extend_run, plan_extension
from studio.training.resume import (
    ChangedSince,
    check_plan,
    is_resumable,
    plan_resume,
    resume_checkpoint,
    with_accepted,
)
from studio.ui import views
from studio.ui.wiring import QUIET

CONTINUED = ("finished", "stopped", "failed")  # a run with another end is resumed first
_EPOCHS, _STEPS = "epochs", "steps"


@dataclass
class ResumePanel:
    """The cards below a run's state.

    Attributes:
        pending: hidden; what the person is asked about: the run, the changes that are shown, and how to continue.
    """

    resume: gr.Button
    changes: gr.Column
    told: gr.HTML
    accept: gr.Button
    leave: gr.Button
    pending: gr.Textbox
    card: gr.Accordion
    amount: gr.Number
    unit: gr.Radio
    schedule: gr.Radio
    rate: gr.Number
    preview: gr.HTML
    go: gr.Button

    @property
    def parts(self) -> list[Any]:
        """What :func:`updates` and the handlers update."""
        shown = [self.resume, self.changes, self.told, self.accept, self.pending, self.card, self.preview, self.go]
        return [*shown, *self.settings]

    @property
    def settings(self) -> list[Any]:
        """How to continue."""
        return [self.amount, self.unit, self.schedule, self.rate]


def build(resume: gr.Button) -> ResumePanel:
    with gr.Column(visible=False, elem_classes="card", elem_id="resume-changes") as changes:
        told = gr.HTML(elem_id="resume-told")
        with gr.Row():
            accept = gr.Button("Resume with these changes", variant="primary", scale=0, min_width=230, elem_id="accept")
            leave = gr.Button("Cancel", scale=0, min_width=100, elem_id="leave-changes")
        pending = gr.Textbox("", visible="hidden", elem_id="pending")
    with gr.Accordion("Continue training", open=False, visible=False, elem_id="continue-card") as card:
        with gr.Row():
            amount = gr.Number(
                1, label="Continue for", info="How much longer to train.", minimum=0, elem_id="continue-amount"
            )
            unit = gr.Radio([_EPOCHS, _STEPS], value=_EPOCHS, label="Unit", info="Epochs are passes over the rows.")
            schedule = gr.Radio(
                [("Restart", "restart"), ("Extend", "extend")],
                value="restart",
                label="Learning rate schedule",
                info="Restart: anew for the added steps. Extend: stretched over the whole run.",
                elem_id="continue-schedule",
            )
            rate = gr.Number(
                0,
                label="Learning rate",
                info="Highest rate from here on; 0 keeps the recipe's.",
                minimum=0,
                step=1e-4,
                elem_id="continue-rate",
            )
        preview = gr.HTML(elem_id="continue-preview")
        go = gr.Button("Continue training", variant="primary", scale=0, min_width=190, elem_id="continue")
    return ResumePanel(
        resume, changes, told, accept, leave, pending, card, amount, unit, schedule, rate, preview, go
    )  # fmt: skip


def updates(panel: ResumePanel, run: Run, status: str, fresh: bool = True) -> dict[Any, Any]:
    """What of the panel fits a run now; nothing is asked any more.

    Args:
        fresh: another run was chosen, or its status is another: the settings get their defaults. Otherwise they and
            the preview stay as they are.
    """
    resumable = is_resumable(run, status)
    label = "Resume" if resumable and resume_checkpoint(run) else "Start again"
    continued = status in CONTINUED and not run.damage and (status == "finished" or resume_checkpoint(run) is not None)
    return {
        panel.resume: gr.update(visible=resumable, value=label),
        **_closed(panel),
        panel.card: gr.update(visible=continued),
        **(_fresh(panel, run, status) if continued and fresh else {}),
    }


def _fresh(panel: ResumePanel, run: Run, status: str) -> dict[Any, Any]:
    """The default settings of a run, and the preview of these."""
    values = [1, _EPOCHS, default_schedule(status), 0]
    set_to = {part: gr.update(value=value) for part, value in zip(panel.settings, values, strict=True)}
    return {**set_to, **_preview(panel, run, *values)}


def hidden(panel: ResumePanel) -> dict[Any, Any]:
    """The panel without a run."""
    return {panel.resume: gr.update(visible=False), **_closed(panel), panel.card: gr.update(visible=False)}


def wire(panel: ResumePanel, run: gr.Dropdown) -> None:
    """Connect the buttons; what happens then comes with the tab's own looks."""

    def resume(run_id: str | None) -> dict[Any, Any]:
        return _tried(panel, run_id, {}, None)

    def proceed(run_id: str | None, amount: Any, unit: str, schedule: str, rate: Any) -> dict[Any, Any]:
        return _tried(panel, run_id, {}, [amount, unit, schedule, rate])

    def accept(run_id: str | None, pending: str) -> dict[Any, Any]:
        asked = json.loads(pending or "{}")
        if not asked or asked["run"] != run_id:
            raise gr.Error("Another run is shown by now. Press Resume again.", duration=None, print_exception=False)
        return _tried(panel, run_id, asked["tokens"], asked["settings"])

    def preview(run_id: str | None, amount: Any, unit: str, schedule: str, rate: Any) -> dict[Any, Any]:
        if not run_id:
            return {panel.preview: ""}
        return _preview(panel, Run.open(run_id), amount, unit, schedule, rate)

    once = {"trigger_mode": "once", **QUIET}
    panel.resume.click(resume, run, panel.parts, **once)
    panel.go.click(proceed, [run, *panel.settings], panel.parts, **once)
    panel.accept.click(accept, [run, panel.pending], panel.parts, **once)
    panel.leave.click(lambda: _closed(panel), None, panel.parts, **QUIET)
    gr.on(
        [part.change for part in panel.settings],
        preview,
        [run, *panel.settings],
        [panel.preview, panel.go],
        trigger_mode="always_last",
        **QUIET,
    )


def _tried(
    panel: ResumePanel, run_id: str | None, tokens: dict[str, str], settings: list[Any] | None
) -> dict[Any, Any]:
    """Resume or continue a run; what has changed and is not among the accepted ``tokens`` is asked about instead."""
    try:
        run = Run.open(run_id or "")
        if settings is None:
            plan = plan_resume(run)
            accepted = check_plan(replace(plan, accepted={**plan.accepted, **tokens}))
            run.reopen(with_accepted(run.recipe, accepted))
        else:
            extension = plan_extension(run, **_wanted(*settings))
            plan = replace(extension.plan, accepted={**extension.plan.accepted, **tokens})
            extend_run(run, replace(extension, plan=plan))
    except ChangedSince as error:
        return _asked(panel, run_id, error, settings)
    except StudioError as error:
        return {
            **_closed(panel),
            panel.changes: gr.update(visible=True),
            panel.told: views.problem(error),
            panel.accept: gr.update(visible=False),
        }
    return {**_closed(panel), panel.resume: gr.update(visible=False), panel.card: gr.update(visible=False)}


def _asked(panel: ResumePanel, run_id: str | None, error: ChangedSince, settings: list[Any] | None) -> dict[Any, Any]:
    refused = error.code == "resume_refused"
    title = (
        "This cannot change in the middle of a run" if refused else "The run is not what its checkpoint was made from"
    )
    fix = error.fix if refused else "Put it back as it was, or continue with these changes."
    tokens = {change.field: change.token for change in error.changes}
    verb = "Resume" if settings is None else "Continue"
    return {
        panel.changes: gr.update(visible=True),
        panel.told: changes_html(title, error.changes, fix),
        panel.accept: gr.update(visible=not refused, value=f"{verb} with these changes"),
        panel.pending: json.dumps({"run": run_id, "tokens": tokens, "settings": settings}),
    }


def changes_html(title: str, changes: list[Change], fix: str) -> str:
    """The changes as a table: what it was when the checkpoint was made, what it is now, and what that means."""
    cell = views.escape
    lines = "".join(
        f"<tr><th>{cell(change.field)}</th><td>{cell(change.before)}</td><td>{cell(change.now)}</td>"
        f"<td>{cell(change.why)}</td></tr>"
        for change in changes
    )
    return (
        f'<div class="changes apart" role="alert"><h3>{cell(title)}</h3><table><thead><tr><th>What</th>'
        f"<th>In the checkpoint</th><th>Now</th><th></th></tr></thead><tbody>{lines}</tbody></table>"
        f'<p class="note">{cell(fix)}</p></div>'
    )


def _preview(panel: ResumePanel, run: Run, amount: Any, unit: str, schedule: str | None, rate: Any) -> dict[Any, Any]:
    """From where to where the run would go on, and with which learning rate; or why it cannot."""
    try:
        wanted = _wanted(amount, unit, schedule, rate)
        text = f'<p class="note">{views.escape(plan_extension(run, **wanted, compare=False).told())}</p>'
    except StudioError as error:
        return {panel.preview: views.problem(error), panel.go: gr.update(interactive=False)}
    return {panel.preview: text, panel.go: gr.update(interactive=True)}


def _wanted(amount: Any, unit: str, schedule: str | None, rate: Any) -> dict[str, Any]:
    """The page's choices as arguments of ``plan_extension``."""
    number = float(amount or 0)
    how_long = {"steps": int(number)} if unit == _STEPS else {"epochs": number}
    return {**how_long, "schedule": schedule, "learning_rate": rate or None}


def _closed(panel: ResumePanel) -> dict[Any, Any]:
    return {panel.changes: gr.update(visible=False), panel.told: "", panel.pending: ""}
