"""Commands that do something with runs that are there: list, stop, pause, cancel, name, order, delete."""

from __future__ import annotations

from typing import Annotated

import typer

from studio.cli import terminal
from studio.cli.arguments import Json, RunId
from studio.errors import StudioError
from studio.runs import Run, queue, trash
from studio.runs.index import RunIndex

app = typer.Typer(rich_markup_mode=None)


@app.command()
def runs(as_json: Json = False) -> None:
    """List the runs of this workspace, newest first."""
    found = RunIndex().summaries()
    if as_json:
        terminal.print_json(found)
    elif found:
        terminal.stdout().print(terminal.runs_table(found))
        for run in found:
            if run.get("damaged"):
                told = f"{run['id']} is damaged: {run['damaged']}"
                terminal.stderr().print(told, markup=False, soft_wrap=True)
    else:
        terminal.stderr().print("There are no runs yet. Start one: python app.py train recipes/quickstart.yaml")


@app.command()
def stop(run: RunId) -> None:
    """Ask a run to stop at the end of its step, with a checkpoint and a usable model."""
    opened = _live(run)
    opened.stop()
    terminal.stderr().print(f"{opened.id} stops at the end of its step.", soft_wrap=True)


@app.command()
def pause(run: RunId) -> None:
    """Ask a run to write a checkpoint and free its device; `resume` continues exactly where it stopped."""
    opened = _live(run)
    opened.pause()
    terminal.stderr().print(f"{opened.id} pauses at the end of its step.", soft_wrap=True)


@app.command()
def cancel(run: RunId) -> None:
    """End a run at once, without a model; a run that waits does not start."""
    opened = Run.open(run)
    opened.cancel()
    terminal.stderr().print(f"{opened.id} is cancelled.", soft_wrap=True)


@app.command()
def label(
    run: RunId,
    name: Annotated[str | None, typer.Option(help="Shown instead of the id.")] = None,
    note: Annotated[str | None, typer.Option(help="What you tried, and what came of it.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A word to find it by; several are possible.")] = None,
) -> None:
    """Give a run a name, a note, tags; without any, show them."""
    opened = Run.open(run)
    words = {"name": name, "note": note, "tags": tuple(tag) if tag is not None else None}
    made = opened.label.changed(**{key: value for key, value in words.items() if value is not None})
    if made != opened.label:
        made.write(opened.folder)
    terminal.print_json({"name": made.name, "note": made.note, "tags": made.tags, "parent": made.parent})


@app.command(name="queue")
def show_queue(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run to move.")] = None,
    places: Annotated[
        int, typer.Option("--move", help="Number of places to move; negative moves towards the front.")
    ] = 0,
) -> None:
    """The runs that wait, in their order; or move one of them."""
    order = queue.move(Run.open(run), places) if run else queue.waiting()
    for number, waiting in enumerate(order, 1):
        terminal.stdout().print(f"{number}  {waiting.id}  {waiting.label.name}".rstrip(), markup=False, soft_wrap=True)


@app.command()
def delete(run: RunId) -> None:
    """Move a run to the trash."""
    trash.delete(Run.open(run))
    terminal.stderr().print(
        f"{run} is in the trash; take it back with: python app.py trash --restore {run}", soft_wrap=True
    )


@app.command(name="trash")
def show_trash(
    restore: Annotated[str | None, typer.Option(metavar="RUN", help="Take a run out of it.")] = None,
    empty: Annotated[bool, typer.Option("--empty", help="Delete what is in it for good.")] = False,
) -> None:
    """The runs that were deleted; take one back, or delete them for good."""
    if restore and empty:
        raise StudioError("--restore and --empty exclude each other.", "Use one of the two.")
    if restore:
        print(trash.restore(restore).id)
    elif empty:
        terminal.stderr().print(f"Deleted for good: {trash.empty()} runs.")
    else:
        for run in trash.deleted():
            terminal.stdout().print(run.id, markup=False, soft_wrap=True)


def _live(run: str) -> Run:
    opened = Run.open(run)
    if opened.status not in ("queued", "running"):
        raise StudioError(f"The run {opened.id} does not run: it is {opened.status}.", "See `python app.py runs`.")
    return opened
