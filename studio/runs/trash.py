"""Deleted runs: moved aside, whole, until the trash is emptied."""

from __future__ import annotations

import shutil
from pathlib import Path

from studio.errors import StudioError
from studio.runs.damage import is_run
from studio.runs.run import Run
from studio.workspace import Workspace

_LIVE = ("running", "queued")


def _folder() -> Path:
    folder = Workspace.current().runs / ".trash"
    folder.mkdir(exist_ok=True)
    return folder


def delete(run: Run) -> None:
    """Move a run to the trash.

    Raises:
        StudioError: it is queued or running, its worker has not ended yet, or it cannot be moved.
    """
    status = run.status
    if status in _LIVE or run.process is not None:
        raise StudioError(
            f"The run {run.id} cannot be deleted: it is {status}, or its worker has not ended.", "Cancel it first."
        )
    try:
        run.folder.rename(_folder() / run.id)
    except OSError as error:
        raise StudioError(f"The run {run.id} cannot be moved: {error.strerror}.", "Look at its folder.") from error


def deleted() -> list[Run]:
    """The runs in the trash, newest first."""
    return [Run(path) for path in sorted(_folder().iterdir(), reverse=True) if is_run(path)]


def restore(run_id: str) -> Run:
    """Take a run out of the trash.

    Raises:
        StudioError: it is not there.
    """
    target = Workspace.current().run(run_id)
    try:
        (_folder() / run_id).rename(target)
    except OSError as error:
        raise StudioError(f"There is no run {run_id!r} in the trash.", "List it with `python app.py trash`.") from error
    return Run(target)


def empty() -> int:
    """Delete what is in the trash for good; returns how many runs that were.

    Raises:
        StudioError: a file cannot be deleted.
    """
    runs = deleted()
    try:
        for path in _folder().iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except OSError as error:
        raise StudioError(f"{error.filename} cannot be deleted: {error.strerror}.", "Delete it by hand.") from error
    return len(runs)
