"""``curves.safetensors`` beside ``events.jsonl``: what was folded from a long file, which then is not read again.

A cache and no more: whoever deletes it loses seconds. It is written aside and renamed into place, it says which bytes
it was made from, and a reader that does not find those bytes in the file ignores it.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from studio.runs.event_check import is_usable
from studio.runs.event_table import Table
from studio.runs.plain_file import open_unlinked
from studio.runs.snapshot import RunSnapshot

NAME = "curves.safetensors"
_VERSION = 4
_FINGERPRINT_BYTES = 256  # compared at the head of the event file and before the offset
_TABLES = ("points", "evals")


def save(folder: Path, view: RunSnapshot, offset: int) -> None:
    """Write down a view of the first ``offset`` bytes of a run's events. Where nothing can be written, nothing is."""
    state = {f.name: getattr(view, f.name) for f in fields(RunSnapshot) if f.name not in _TABLES}
    redone = {name: getattr(view, name).redone for name in _TABLES}
    about = {"version": _VERSION, "offset": offset, "bytes": _fingerprint(folder, offset), "redone": redone}
    arrays = {
        f"{name}:{column}": values for name in _TABLES for column, values in getattr(view, name).columns().items()
    }
    aside = folder / f".{NAME}.{os.getpid()}.part"
    # a full or read-only disk, or a number that orjson does not write: the file is read again the next time
    with contextlib.suppress(OSError, SafetensorError, orjson.JSONEncodeError):
        text = orjson.dumps({"about": about, "state": state}, option=orjson.OPT_NON_STR_KEYS).decode()
        try:
            save_file(arrays, aside, metadata={"view": text})
            aside.replace(folder / NAME)
        finally:
            aside.unlink(missing_ok=True)


def load(folder: Path) -> tuple[RunSnapshot, int]:
    """The view that was saved and its byte offset; an empty view and 0 if there is none that fits the events."""
    try:
        with safe_open(folder / NAME, framework="np") as found:
            said = orjson.loads(found.metadata()["view"])
            about = said["about"]
            if about["version"] != _VERSION or about["bytes"] != _fingerprint(folder, about["offset"]):
                return RunSnapshot(), 0
            known = found.offset_keys()
            if not _is_sound(said["state"]):
                return RunSnapshot(), 0
            view = RunSnapshot(**said["state"])
            view.samples = {
                int(step): {int(number): sample for number, sample in samples.items()}
                for step, samples in view.samples.items()
            }
            for name in _TABLES:
                keys = [key for key in known if key.startswith(f"{name}:")]
                columns = {key.split(":", 1)[1]: found.get_tensor(key) for key in keys}
                setattr(view, name, Table().replace(columns, about["redone"][name]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, SafetensorError):  # none, or not ours
        return RunSnapshot(), 0
    return view, about["offset"]


def _is_sound(state: dict[str, Any]) -> bool:
    """Whether what was saved has the types that :class:`RunSnapshot` has; anybody may have changed the file."""
    events = [state["started"], state["ended"], state["stage"], *state["warnings"], *state["checkpoints"]]
    return (
        all(type(state[name]) is int for name in ("step", "max_steps", "tokens", "first_step", "bad_events"))
        and all(event is None or is_usable(event) for event in events)
        and all(is_usable(sample) for samples in state["samples"].values() for sample in samples.values())
        and is_usable({"kind": "step", **{name: state[name] for name in ("loss", "eval_loss", "epoch")}})
        and is_usable({"kind": "step", "time": state["last_time"] or 0})
    )


def _fingerprint(folder: Path, offset: int) -> str:
    """The first bytes of the events and the last ones before ``offset``; empty if the file is shorter than that."""
    with open_unlinked(folder / "events.jsonl") as file:
        if file.seek(0, os.SEEK_END) < offset:
            return ""
        file.seek(0)
        head = file.read(min(offset, _FINGERPRINT_BYTES))
        file.seek(max(0, offset - _FINGERPRINT_BYTES))
        return (head + file.read(min(offset, _FINGERPRINT_BYTES))).hex()
