"""Which process works on a run, and whether it still lives: a pid together with its start time, so a reused pid fools
nobody."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import psutil

from studio.jobs.json_file import read_json

_SAME_START_SECONDS = 2.0  # psutil derives start times from the boot time, which moves a little with the clock


def describe(pid: int, command: list[str]) -> dict[str, Any]:
    """A process as ``process.json`` keeps it. ``start`` is unix seconds; 0 if the process has already gone."""
    try:
        start = psutil.Process(pid).create_time()
    except psutil.Error:
        start = 0.0
    return {"pid": pid, "start": start, "host": socket.gethostname(), "command": command}


def write(path: Path, description: dict[str, Any]) -> None:
    """Write ``process.json`` aside and rename it into place."""
    aside = path.with_suffix(f".{os.getpid()}.part")
    aside.write_text(json.dumps(description), encoding="utf-8")
    aside.replace(path)


def write_first(path: Path, description: dict[str, Any]) -> bool:
    """Write ``process.json`` unless there is one; False if there is: another process works on the run."""
    aside = path.with_suffix(f".{os.getpid()}.part")
    aside.write_text(json.dumps(description), encoding="utf-8")
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        aside.unlink()
    return True


def read(path: Path) -> dict[str, Any] | None:
    """The description, or None if there is none (or none that can be read)."""
    description = read_json(path)
    return description if description and "pid" in description else None


def kill(description: dict[str, Any] | None, seconds: float = 10.0) -> None:
    """End the very process that is described at once, with all that it started in its session, and wait for it.

    Raises:
        psutil.TimeoutExpired: it has not gone after so many seconds.
    """
    process = find(description)
    if process is None:
        return
    group = [process, *process.children(recursive=True)]
    if os.getpgid(process.pid) == process.pid:  # the leader of a session of its own
        os.killpg(process.pid, signal.SIGKILL)
    for member in group:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    _, alive = psutil.wait_procs(group, timeout=seconds)
    still = [member for member in alive if member.status() != psutil.STATUS_ZOMBIE]
    if still:
        raise psutil.TimeoutExpired(seconds, still[0].pid)


def note_exit(path: Path, pid: int, code: int) -> None:
    """Add to ``process.json`` how that worker ended: its exit code, or minus the signal that ended it."""
    description = read(path)
    if description and description["pid"] == pid:
        write(path, {**description, "exit_code": code})


def find(description: dict[str, Any] | None) -> psutil.Process | None:
    """The very process that is described, if it is alive on this host."""
    if not description or description.get("host") != socket.gethostname():
        return None
    try:
        process = psutil.Process(int(description["pid"]))
        same = abs(process.create_time() - float(description["start"])) < _SAME_START_SECONDS
        alive = process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except (psutil.Error, ValueError, TypeError, KeyError, OverflowError):  # all but the first: not a file of ours
        return None
    return process if same and alive else None
