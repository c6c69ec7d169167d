"""An export that the page has asked for: a process of its own, and a file in the run's folder that says how far it is.

The page only looks at the file, so a reload, a second browser and a restart of the studio show the same, and what is
heavy ends with the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.export.kinds import KINDS, Options, check, place
from studio.jobs import process
from studio.jobs.environment import HUB_TOKENS, without_secrets
from studio.jobs.json_file import read_json
from studio.runs import Run
from studio.runs.secrets import needed_secrets
from studio.workspace import Workspace

NAME = "export.json"
LOG = "export.log"
_STARTING_SECONDS = 30.0
_ROOT = Path(__file__).resolve().parents[2]


def start(run: Run, kind: str, to: str | None, options: Options) -> None:
    """Begin an export.

    Raises:
        StudioError: it cannot be made, or another one of this run goes on.
    """
    options.check()
    check(run, kind)
    if kind != "hub":
        place(run, kind, to, options)
    if (state := read(run)) and state["state"] == "working":
        raise StudioError(f"{run.id} is being exported already.", "Wait until that is done.")
    write(run, {"state": "working", "kind": kind, "what": "Starting", "done": 0, "total": 0})
    asked = json.dumps({"kind": kind, "to": to or None, "options": asdict(options)})
    with (run.folder / LOG).open("w", encoding="utf-8") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "studio.export", str(run.folder), asked],
            cwd=_ROOT,
            env=without_secrets(HUB_TOKENS if kind == "hub" else needed_secrets(run.recipe, reports=False)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process.write(run.folder / "export-process.json", process.describe(child.pid, child.args[1:4]))


def read(run: Run) -> dict[str, Any] | None:
    """How the run's last export stands: ``state`` is ``working``, ``done`` or ``failed``; None if there was none.

    A process that is gone without having said how it ended has failed.
    """
    state = read_json(run.folder / NAME)
    if state is None or not _is_state(state):
        return None
    if state["state"] != "working" or time.time() - state["time"] < _STARTING_SECONDS:
        return state
    if process.find(process.read(run.folder / "export-process.json")):
        return state
    fix = f"See {LOG} in the run's folder; is memory short?"
    problem = {"what": "The export exited without reporting an error.", "fix": fix}
    return {**state, "state": "failed", **problem}


def _is_state(state: dict[str, Any]) -> bool:
    """Whether a file has what :func:`write` puts into it; anybody may have changed it."""
    wanted = {
        "working": {"what": str, "done": (int, float), "total": (int, float)},
        "failed": {"what": str, "fix": str},
        "done": {"path": str, "told": list},
    }.get(str(state.get("state")))
    return (
        wanted is not None
        and str(state.get("kind")) in KINDS
        and type(state.get("time")) in (int, float)
        and isinstance(state.get("code") or {}, dict)
        and all(isinstance(state.get(name), kind) for name, kind in wanted.items())
    )


def write(run: Run, state: dict[str, Any]) -> None:
    """Say how far it is: written aside and renamed."""
    aside = run.folder / f"{NAME}.{os.getpid()}.part"
    aside.write_text(json.dumps({**state, "time": time.time()}), encoding="utf-8")
    aside.replace(run.folder / NAME)


def keep_place(run: Run, path: str) -> None:
    """Note in the workspace where an export of this run was put; the run's own folder may have come from elsewhere."""
    note = _note(run)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"path": path}), encoding="utf-8")


def made_file(run: Run, state: dict[str, Any] | None) -> Path | None:
    """The file that the run's last export has made, to be downloaded; None where it made none.

    ``export.json`` may name any file of this machine. Only what the studio has made is taken: a file in the run's
    folder of the workspace's exports, or at the place that :func:`keep_place` noted; never a link.
    """
    if state is None or state["state"] != "done":
        return None
    path = Path(state["path"])
    try:
        if path.is_symlink() or not path.is_file():
            return None
        home = (Workspace.current().exports / run.id).resolve()
        noted = (read_json(_note(run)) or {}).get("path") == state["path"]
        return path if noted or path.resolve().is_relative_to(home) else None
    except (OSError, ValueError):  # a name that no file can have
        return None


def _note(run: Run) -> Path:
    return Workspace.current().root / "exported" / f"{run.id}.json"


def stamp(run: Run) -> str:
    """What changes when there is something new to show."""
    try:
        return str((run.folder / NAME).stat().st_mtime_ns)
    except OSError:
        return ""
