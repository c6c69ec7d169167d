"""What can be done with runs: pause, cancel, repeat, name, move in the queue, delete and take back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.recipe import Recipe
from studio.runs import Run, queue, trash
from studio.runs.label import Label
from studio.ui import views
from studio.ui.context import AppContext
from studio.ui.wiring import QUIET, told
from studio.workspace import ASSETS

LIVE = ("queued", "running")


@dataclass
class RunActions:
    pause: gr.Button
    cancel: gr.Button
    again: gr.Button
    change: gr.Button
    delete: gr.Button
    name: gr.Textbox
    tags: gr.Textbox
    note: gr.Textbox
    keep: gr.Button
    kept: gr.HTML
    waiting: gr.HTML
    empty: gr.Button

    def parts(self) -> list[gr.components.Component]:
        """Everything that :func:`updates` may change."""
        return [
            self.pause, self.cancel, self.again, self.change, self.delete,
            self.name, self.tags, self.note, self.kept, self.waiting, self.empty,
        ]  # fmt: skip


def build_buttons() -> dict[str, gr.Button]:
    """The buttons beside Stop and Resume."""
    return {
        "pause": gr.Button("Pause", visible=False, min_width=80, elem_id="pause"),
        "cancel": gr.Button("Cancel", visible=False, min_width=80, elem_id="cancel"),
    }


def build(buttons: dict[str, gr.Button]) -> RunActions:
    """The folded parts below a run: its words, what can be made of it, and all that waits or was deleted."""
    with gr.Accordion("Manage run", open=False, elem_id="run-words"):
        with gr.Row():
            name = gr.Textbox(
                label="Name", info="Shown instead of the run's id.", max_length=80, elem_id="run-name", interactive=True
            )
            tags = gr.Textbox(label="Tags", info="Comma-separated tags.", elem_id="run-tags", interactive=True)
        note = gr.Textbox(
            label="Note", info="What you tried, and what came of it.", lines=2, elem_id="run-note", interactive=True
        )
        kept = gr.HTML(elem_id="run-kept")
        with gr.Row():
            keep = gr.Button("Save", min_width=120, scale=0, elem_id="keep-words")
            again = gr.Button("Duplicate and run", min_width=130, scale=0, elem_id="again-run")
            change = gr.Button("Edit as new run", min_width=160, scale=0, elem_id="change-recipe")
            delete = gr.Button("Delete", variant="stop", min_width=90, scale=0, elem_id="delete-run")
    with gr.Accordion("Queue and trash", open=False, elem_id="queue-card"):
        waiting = gr.HTML(queue_html([]), elem_id="queue", js_on_load=(ASSETS / "queue.js").read_text(encoding="utf-8"))
        empty = gr.Button("Empty the trash", variant="stop", visible=False, scale=0, min_width=150, elem_id="empty")
    return RunActions(**buttons, again=again, change=change, delete=delete, name=name, tags=tags, note=note,
                      keep=keep, kept=kept, waiting=waiting, empty=empty)  # fmt: skip


def updates(context: AppContext, actions: RunActions, run: Run, status: str) -> dict[Any, Any]:
    """What of the actions fits a run now."""
    return {
        actions.pause: gr.update(visible=status in LIVE, interactive=not run.ending),
        actions.cancel: gr.update(visible=status in LIVE, interactive=True),
        actions.again: gr.update(interactive=True),
        actions.delete: gr.update(interactive=status not in LIVE),
        **listed(context, actions),
    }


def words(actions: RunActions, label: Label) -> dict[Any, Any]:
    """What a person said of a run; shown only where that has changed, so that what is being typed stays."""
    return {
        actions.name: label.name,
        actions.tags: ", ".join(label.tags),
        actions.note: label.note,
        actions.kept: made_from(label),
    }


def listed(context: AppContext, actions: RunActions) -> dict[Any, Any]:
    """The queue and the trash as they are."""
    deleted = trash.deleted()
    queued = [run for run, status in context.index.look() if status == "queued"]
    return {
        actions.waiting: queue_html(queue.waiting(queued), deleted),
        actions.empty: gr.update(visible=bool(deleted), value=f"Empty the trash ({len(deleted)})"),
    }


def made_from(label: Label) -> str:
    return f'<p class="note">Made from {views.escape(label.parent)}.</p>' if label.parent else ""


def queue_html(waiting: list[Run], deleted: list[Run] | None = None) -> str:
    """The runs that wait, in their order, and those that were deleted, with what can be done with each."""

    def line(run: Run, place: str, *acts: tuple[str, str, str]) -> str:
        label = run.label
        shown = views.escape(label.name or run.id)
        buttons = "".join(
            f'<button type="button" data-act="{act}" data-run="{views.escape(run.id)}" title="{title}" '
            f'aria-label="{title}: {shown}">{text}</button>'
            for act, text, title in acts
        )
        return f"<tr><td>{place}</td><td title='{views.escape(run.id)}'>{shown}</td><td>{buttons}</td></tr>"

    moves = (("up", "↑", "Start earlier"), ("down", "↓", "Start later"), ("cancel", "✕", "Do not start"))
    lines = "".join(line(run, str(number), *moves) for number, run in enumerate(waiting, 1))
    queue_part = (
        f'<table class="queue">{lines}</table>'
        if lines
        else '<p class="note">No run is waiting. Runs started while another is training wait here, in order.</p>'
    )
    gone = "".join(line(run, "", ("restore", "Take back", "Take back")) for run in deleted or [])
    trash_part = f'<h4>Deleted</h4><table class="queue">{gone}</table>' if gone else ""
    return queue_part + trash_part


def act(what: str, run_id: str) -> None:
    """Do what a button of the list asks for.

    Raises:
        StudioError: the run does not wait any more, or is not there.
    """
    if what == "restore":
        trash.restore(run_id)
    elif what == "cancel":
        Run.open(run_id).cancel()
    elif what in ("up", "down"):
        queue.move(Run.open(run_id), -1 if what == "up" else 1)


def repeated(context: AppContext, run: Run) -> Run:
    """A new run of the same recipe, which computes in the same way.

    Raises:
        StudioErrors: the recipe has problems by now.
    """
    return context.launcher.submit(run.recipe, Label(parent=run.id), repeated=run.recipe.resolved)


def wire(
    context: AppContext, actions: RunActions, run: gr.Dropdown, show: Any, shown: list, take: Any, form: list
) -> None:
    """Connect the actions.

    Args:
        run: the dropdown with the run's id.
        show: a run's id to the updates of ``shown``, whatever was there before.
        take: a recipe to the updates that put it into ``form`` and go there.
    """

    def asked(fn: Any) -> Any:
        def handler(run_id: str | None) -> Any:
            if not run_id:
                raise StudioError("There is no run yet.", "Launch one first.")
            return show(fn(Run.open(run_id)) or run_id)

        return told(handler)

    def delete(found: Run) -> str | None:
        trash.delete(found)
        return next(iter(context.index.statuses()), "")

    for button, fn in (
        (actions.pause, lambda found: found.pause()),
        (actions.cancel, lambda found: found.cancel()),
        (actions.again, lambda found: repeated(context, found).id),
        (actions.delete, delete),
    ):
        button.click(asked(fn), run, shown, api_visibility="private", trigger_mode="once", show_progress="hidden")

    def keep(run_id: str | None, name: str, tags: str, note: str) -> tuple[str, Any]:
        if not run_id:
            raise StudioError("There is no run yet.", "Launch one first.")
        found = Run.open(run_id)
        label = found.label.changed(name=name, note=note, tags=tuple((tags or "").split(",")))
        label.write(found.folder)
        gr.Info("Saved.", duration=3)
        return made_from(label), label.note

    actions.keep.click(
        told(keep), [run, actions.name, actions.tags, actions.note], [actions.kept, actions.note], **QUIET
    )

    def change(run_id: str | None) -> Any:
        recipe: Recipe = Run.open(run_id or "").recipe.model_copy(update={"resolved": None})
        return take(recipe)

    actions.change.click(told(change), run, form, **QUIET)

    def clicked(event: gr.EventData, run_id: str | None) -> Any:
        act(str(event._data.get("act")), str(event._data.get("run")))
        return show(run_id) if run_id else listed(context, actions)

    actions.waiting.select(told_event(clicked), run, shown, **QUIET)

    def empty() -> dict:
        trash.empty()
        return listed(context, actions)

    actions.empty.click(told(empty), None, [actions.waiting, actions.empty], **QUIET)


def told_event(fn: Any) -> Any:
    """As :func:`told`, for a handler that takes the event; what the list shows is then drawn as it is."""

    def handler(event: gr.EventData, run_id: str | None) -> Any:
        return told(fn)(event, run_id)

    return handler
