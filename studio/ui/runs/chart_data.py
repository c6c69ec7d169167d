"""What the charts of the page ask for: the points of a run that the page does not have yet, at the width of its plots.

The page says which points it has (``have``) and gets the ones after them as they are. When it has none, when too many
are new, or when steps were done again, it gets the whole run anew: every point where there are few, and else at most
four a column of pixels (:mod:`studio.runs.decimate`). A visible range that is asked for is a detail of its own and is
not followed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from studio.runs.decimate import PER_BUCKET, kept_with_gaps, smoothed, window
from studio.runs.feed import RunMetrics

AXES = ("step", "tokens", "time")
SMALL = ("learning_rate", "grad_norm", "tokens_per_second", "memory_bytes", "gpu_utilization", "gpu_temperature")
_MOST_COLUMNS = 1600  # of pixels of a plot: wider ones are drawn from this many
_MOST_WARNINGS = 200
_DIGITS = 6  # of a value among thousands: more than a screen can show
_FINEST = {"step": 1.0, "tokens": 1.0, "time": 0.01}  # places on the axis are sent as whole numbers of these


def answer(look: RunMetrics, request: dict[str, Any], *, overlaid: bool = False) -> dict[str, Any]:
    """The points of one run that a page asks for.

    Args:
        look: the run as it is now.
        request: ``axis`` (one of ``AXES``), ``width`` and ``small`` (columns of pixels of the large and of the small
            plots), ``smoothing`` (weight of the past in the moving average), ``range`` (visible range, or None for
            all) and ``have`` (``generation``, ``points`` and ``evals`` as an earlier answer said them, or None).
        overlaid: only the loss and the validation loss, as they are drawn over those of another run.

    Returns:
        ``curves``: name -> ``x`` (``unit``, first place and steps from place to place) and ``y`` (null where the
        logged value was no number: a gap); ``all`` says that no
        point was left out, ``smooth`` is the moving average of the loss where some were. ``whole`` says that the curves
        take the place of what the page has. ``warnings`` are there if there are new ones. ``have`` is for the next
        request; ``axes`` are the axes that the run has.
    """
    axis = request.get("axis") if request.get("axis") in AXES else "step"
    places = _places(look, axis)
    have = request.get("have") if isinstance(request.get("have"), dict) else {}
    rows, evals = len(places["points"]), len(places["evals"])
    width = _between(request.get("width"), 50, _MOST_COLUMNS)
    wide = {name: _between(request.get("small"), 50, width) for name in SMALL} | {"loss": width, "eval_loss": width}
    names = ("loss", "eval_loss", *SMALL)
    if overlaid or look.reading:
        names = ("loss", "eval_loss")
    if look.reading:
        wide["loss"] = max(50, width // 6)  # it all comes again when the file has been read
    known = have.get("generation") == look.generation
    since = {name: _between(have.get(name), 0, 1 << 40) for name in ("points", "evals")} if known else {}
    span = request.get("range")
    span = span if isinstance(span, (list, tuple)) and len(span) == 2 else None
    whole = not since or bool(span) or rows - since["points"] > PER_BUCKET * width
    result: dict[str, Any] = {
        "whole": whole,
        "have": {
            "generation": look.generation,
            "points": rows,
            "evals": evals,
            "warnings": len(look.view.warnings),
            "size": look.size,
        },
        "reading": look.reading,
        "axes": [a for a in AXES if a != "tokens" or "tokens" in look.points],
        "curves": {},
    }
    low, high = (None, None) if span is None else (_number(span[0]), _number(span[1]))
    for name in names:
        table, column = ("evals", "loss") if name == "eval_loss" else ("points", name)
        values = getattr(look, table).get(column)
        if values is None:
            continue
        x = places[table]
        begin = 0 if whole else since[table]
        x, values = _without_missing(x, values, begin)
        if not whole:
            if len(x):
                result["curves"][name] = {"x": _packed(x, axis), "y": values.tolist()}
            continue
        weight = min(max(_number(request.get("smoothing")) or 0.0, 0.0), 0.9999) if name == "loss" else 0.0
        curve = _drawn(x, values, window(x, low, high), wide[name], weight, axis)
        if curve:
            result["curves"][name] = curve
    if not overlaid and (whole or have.get("warnings") != len(look.view.warnings)):
        result["warnings"] = _warnings(look, places["points"])
    return result


def _drawn(
    x: np.ndarray, values: np.ndarray, part: slice, columns: int, weight: float, axis: str
) -> dict[str, Any] | None:
    """One curve: all points of ``part`` or those that a plot can show, and its average where the page lacks points.

    ``weight`` is that of the past from column to column of pixels: a run of a million steps then looks as smooth as one
    of a thousand.
    """
    seen = x[part]
    if not len(seen):
        return None
    weight = weight ** min(1.0, columns / len(x)) if weight else 0.0
    if len(seen) <= PER_BUCKET * columns:
        curve = {"x": _packed(seen, axis), "y": values[part].tolist(), "all": len(seen) == len(x)}
        if weight and not curve["all"]:  # the average goes back to points that are out of sight
            average = smoothed(values[: part.stop], weight)[part]
            curve["smooth"] = {"x": curve["x"], "y": _rounded(average), "last": _last(average), "weight": weight}
        return curve
    chosen = kept_with_gaps(seen, values[part], columns)
    curve = {"x": _packed(seen[chosen], axis), "y": _rounded(values[part][chosen]), "all": False}
    if weight:
        average = smoothed(values[: part.stop], weight)[part]
        chosen = kept_with_gaps(seen, average, columns)
        curve["smooth"] = {
            "x": _packed(seen[chosen], axis),
            "y": _rounded(average[chosen]),
            "last": _last(average),
            "weight": weight,
        }
    return curve


def _without_missing(x: np.ndarray, values: np.ndarray, begin: int) -> tuple[np.ndarray, np.ndarray]:
    """A curve from row ``begin`` on. A value that is no number stays as NaN, which is drawn as a gap.

    Left out are the rows before the first number, and all rows without one of a series that is logged at less than
    half of the steps: its points are joined.
    """
    known = np.isfinite(values)
    there = np.flatnonzero(known)
    if not len(there):
        return x[:0], values[:0]
    first = int(there[0])
    rows = there if 2 * len(there) < len(values) - first else np.arange(first, len(values))
    rows = rows[rows >= begin]
    return x[rows], np.where(known[rows], values[rows], np.nan)


def _places(look: RunMetrics, axis: str) -> dict[str, np.ndarray]:
    """Where the rows of both tables stand on an axis: rising, with no gaps."""
    steps = look.points.get("step", np.empty(0))
    measured = look.evals.get("step", np.empty(0))
    if axis == "time":
        begun = look.view.first_time or 0.0
        return {
            name: np.maximum.accumulate(np.nan_to_num(table.get("time", np.empty(0)) - begun)) if len(table) else x
            for name, table, x in (("points", look.points, steps), ("evals", look.evals, measured))
        }
    if axis == "tokens" and "tokens" in look.points:
        tokens = np.maximum.accumulate(np.nan_to_num(look.points["tokens"]))
        at = np.searchsorted(steps, measured, side="right") - 1
        return {"points": tokens, "evals": np.where(at < 0, 0.0, tokens[np.maximum(at, 0)]) if len(tokens) else at}
    return {"points": steps, "evals": measured}


def _warnings(look: RunMetrics, places: np.ndarray) -> list[dict[str, Any]]:
    """Warnings that say at which step they came, with their place on the loss curve."""
    steps, losses = look.points.get("step", np.empty(0)), look.points.get("loss", np.empty(0))
    there = np.flatnonzero(np.isfinite(losses))
    found = []
    for warning in look.view.warnings[-_MOST_WARNINGS:]:
        step = warning.get("step")
        if isinstance(step, int) and len(there):
            at = there[min(int(np.searchsorted(steps[there], step)), len(there) - 1)]
            text = f"{warning.get('what', '')} {warning.get('fix', '')}".strip()
            found.append({"x": float(places[at]), "y": float(losses[at]), "step": step, "text": text})
    return found


def _packed(x: np.ndarray, axis: str) -> dict[str, Any]:
    """Places as whole numbers of a unit, each as its distance from the one before: half as many characters."""
    unit = _FINEST[axis]
    whole = np.rint(x / unit).astype(np.int64)
    return {"unit": unit, "first": int(whole[0]), "next": np.diff(whole).tolist()}


def _last(values: np.ndarray) -> float | None:
    """The last number, from which the page goes on with the average."""
    there = np.flatnonzero(np.isfinite(values))
    return float(values[there[-1]]) if len(there) else None


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values.tolist()]


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _between(value: Any, least: int, most: int) -> int:
    return int(min(max(_number(value) or 0, least), most))
