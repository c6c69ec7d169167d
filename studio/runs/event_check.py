"""Which events of ``events.jsonl`` can be used: their fields, where present, have the types that readers rely on."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

LARGEST_STEP = 2**53  # what a float64 column still holds exactly
_LATEST = 1e11  # unix seconds
_NUMERIC = frozenset({int, float})
_NUMERIC_OR_NONE = frozenset({int, float, type(None)})
_COUNTS = frozenset({"step", "max_steps", "number", "rows", "held_out_rows", "threads", "processes", "best_step"})
_NUMBERS = frozenset(
    {
        "done",
        "total",
        "epoch",
        "tokens",
        "tokens_per_second",
        "loss",
        "learning_rate",
        "eval_loss",
        "accuracy",
        "macro_f1",
    }
)
_TEXTS = frozenset(
    {"what", "fix", "traceback", "reason", "rule", "path", "output", "prompt", "expected", "device", "dtype"}
    | {"resumed_from", "code", "checkpoint"}
)
_LISTS = frozenset({"choices", "notes", "changes"})  # of mappings or texts
_FILLED = {  # fields that readers take for granted, of events written by hand or by an earlier version
    "failed": {"what": "", "fix": "", "traceback": "", "step": 0, "time": 0.0},
    "warning": {"what": "", "fix": ""},
    "progress": {"what": "", "done": 0, "total": 0},
    "sample": {"output": "", "prompt": "", "step": 0},
    "started": {"time": 0.0},
    "finished": {"step": 0, "time": 0.0},
    "stopped": {"step": 0, "time": 0.0},
    "paused": {"step": 0, "time": 0.0},
}


def is_usable(event: Any) -> bool:
    """Whether an event has a kind and, in the fields that readers use, values of the right type.

    Fields that readers take for granted and that are absent are filled in.
    """
    if not isinstance(event, dict) or not isinstance(event.get("kind"), str):
        return False
    kind = event["kind"]
    if kind in ("step", "eval"):  # nearly all events; the table leaves out what is no number
        step, time = event.get("step", 0), event.get("time", 0)
        if type(step) is not int or not 0 <= step < LARGEST_STEP:
            return False
        if type(time) not in _NUMERIC or not 0 <= time < _LATEST:
            return False
        return _has_numbers(tuple(event), tuple(map(type, event.values())))
    for name, value in event.items():
        if not _fits(kind, name, value):
            return False
    for name, value in _FILLED.get(kind, {}).items():
        if event.get(name) is None:
            event[name] = value
    return True


@lru_cache(maxsize=256)
def _has_numbers(names: tuple[str, ...], types: tuple[type, ...]) -> bool:
    """Whether the fields that are numbers are; most events of a run have the same fields with the same types."""
    return all(kind in _NUMERIC_OR_NONE for name, kind in zip(names, types, strict=True) if name in _NUMBERS)


def _fits(kind: str, name: str, value: Any) -> bool:
    if value is None:
        return True
    if name == "time":
        return _is_time(value)
    if name == "rows" and kind == "failed":
        return isinstance(value, list) and all(map(_is_row, value))
    if name in _COUNTS:
        return _is_count(value)
    if name in _NUMBERS or name.endswith("_bytes"):
        return _is_number(value)
    if name in _TEXTS:
        return isinstance(value, str)
    if name in _LISTS:
        return isinstance(value, list) and all(isinstance(one, str) or _is_mapping_of_texts(one) for one in value)
    return True


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST_STEP


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value < _LATEST


def _is_row(row: Any) -> bool:
    """Whether this is a row of the batch at which a run diverged."""
    if not isinstance(row, dict):
        return False
    number, loss = row.get("row"), row.get("loss")
    return (number is None or _is_count(number)) and (loss is None or _is_number(loss))


def _is_mapping_of_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(one, (str, int, float, bool, type(None))) for one in value.values()
    )
