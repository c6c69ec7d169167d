"""A run's numbers as a table for other programs."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

from studio.runs.feed import RunMetrics

_ROWS = 20_000  # written at a time
_FIRST = ("step", "time", "epoch", "tokens", "loss")
_EXACT = 2.0**53  # up to here float64 holds every whole number


def metrics_csv(look: RunMetrics) -> Iterator[bytes]:
    """The lines of a CSV: one row a step, with the measurement of that step in columns that begin with ``eval_``.

    ``time`` is unix seconds. A value that is not known, or was
    no finite number, is an empty field. Whole numbers have no decimal point.
    """
    import pyarrow
    from pyarrow import csv

    table = joined(look)
    types = {name: pyarrow.int64() if _whole(values) else pyarrow.float64() for name, values in table.items()}
    count = len(table["step"])
    for start in range(0, max(count, 1), _ROWS):
        columns = {}
        for name, values in table.items():
            part = values[start : start + _ROWS]
            missing = ~np.isfinite(part)
            numbers = np.where(missing, 0, part).astype(np.int64) if pyarrow.types.is_int64(types[name]) else part
            columns[name] = pyarrow.array(numbers, type=types[name], mask=missing)
        written = io.BytesIO()
        options = csv.WriteOptions(include_header=start == 0, quoting_header="none")
        csv.write_csv(pyarrow.table(columns), written, options)
        yield written.getvalue()


def joined(look: RunMetrics) -> dict[str, np.ndarray]:
    """Columns over all steps at which anything was logged or measured; NaN where a number is not known."""
    steps = np.union1d(look.points.get("step", np.empty(0)), look.evals.get("step", np.empty(0)))
    table = {"step": steps}
    for source, before in ((look.points, ""), (look.evals, "eval_")):
        for name, values in source.items():
            if name == "step":
                continue
            column = table.setdefault("time" if name == "time" else before + name, np.full(len(steps), np.nan))
            at = np.searchsorted(steps, source["step"])
            column[at] = np.where(np.isnan(column[at]), values, column[at])  # a step's own time goes first
    ordered = [name for name in _FIRST if name in table] + [name for name in table if name not in _FIRST]
    return {name: table[name] for name in ordered}


def _whole(values: np.ndarray) -> bool:
    known = values[np.isfinite(values)]
    return bool(len(known)) and bool(np.all((known == np.rint(known)) & (np.abs(known) < _EXACT)))
