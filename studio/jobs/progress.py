"""How far a download is: a small file that the downloading process writes and any other process reads."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable

from studio.errors import StudioError
from studio.workspace import Workspace, safe_name

log = logging.getLogger(__name__)

Report = Callable[[str, int, int], None]
"""Called with (what is being done, bytes done, bytes in total; 0 where the total is not known)."""


def quiet(what: str, done: int, total: int) -> None:
    """A :data:`Report` that logs what starts; bytes are not worth a line."""
    if done == 0:
        log.info(what)


def slug(model_id: str) -> str:
    """A file name for a model id: readable, and different for different ids."""
    name = safe_name(model_id.replace("\\", "/").replace("/", "--"), fallback="model")
    if name == model_id.replace("/", "--") and "--" not in model_id:
        return name
    return f"{name[:80]}-{hashlib.sha256(model_id.encode()).hexdigest()[:8]}"


class Progress:
    """Writes ``downloads/<slug>.json`` at most five times a second, each time whole (written aside, then renamed).

    An instance is itself a :data:`Report`: pass it to :func:`studio.models.store.fetch`, and call :meth:`done` or
    :meth:`failed` at the end.
    """

    def __init__(self, model_id: str, workspace: Workspace | None = None, also: Report | None = None):
        self.path = (workspace or Workspace.current()).downloads / f"{slug(model_id)}.json"
        self.also = also
        self.last = {"what": "Starting", "done": 0, "total": 0}
        self._written = 0.0
        self._write("working")

    def __call__(self, what: str, done: int, total: int) -> None:
        new_sentence = what != self.last["what"]
        self.last = {"what": what, "done": done, "total": total}
        if self.also:
            self.also(what, done, total)
        if new_sentence or time.monotonic() - self._written >= 0.2:
            self._write("working")

    def done(self) -> None:
        self.last["what"] = "Ready"
        self._write("done")

    def failed(self, error: StudioError) -> None:
        self._write("failed", {"what": error.what, "fix": error.fix})

    def _write(self, state: str, error: dict | None = None) -> None:
        self._written = time.monotonic()
        values = {**self.last, "state": state, "error": error, "pid": os.getpid(), "time": time.time()}
        aside = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        aside.write_text(json.dumps(values), encoding="utf-8")
        aside.replace(self.path)


def download_state(model_id: str, workspace: Workspace | None = None) -> dict | None:
    """What is known about the newest download of a model; None if there was none.

    Returns:
        ``{"what", "done", "total", "state", "error", "pid", "time"}``: ``done`` and ``total`` in bytes, ``state`` one
        of ``working``, ``done`` and ``failed``, ``error`` None or ``{"what", "fix"}``. A download whose process is
        gone without having finished is ``failed``.
    """
    path = (workspace or Workspace.current()).downloads / f"{slug(model_id)}.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if state["state"] == "working" and not alive(state["pid"], state["time"]):
        state["state"] = "failed"
        state["error"] = {
            "what": "The download was interrupted.",
            "fix": "Start it again; it goes on from where it stopped.",
        }
    return state


def alive(pid: int, seen: float) -> bool:
    """Whether the process that wrote at unix time ``seen`` still runs (a pid can be given to a newer process)."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= seen + 1
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
