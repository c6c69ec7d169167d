"""Numbers of many events as numpy columns: a million steps with ten fields take 80 MB, where lists take a gigabyte."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from operator import itemgetter
from typing import Any

import numpy as np

_MOST_COLUMNS = 64  # of fields that events may bring; more would be text in the place of numbers
_GROWTH = 1.25
_LARGEST = 1e300


class Table:
    """Rows in the order of ``step``, which rises strictly; a number that is missing is NaN.

    Rows that come again (a resumed run goes over its last steps a second time) replace those that were there from that
    step on; ``redone`` counts how often. Arrays that were handed out never change afterwards.

    Attributes:
        rows: how many there are.
        redone: how often rows were replaced.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.redone = 0
        self._columns: dict[str, np.ndarray] = {}

    @property
    def names(self) -> list[str]:
        return list(self._columns)

    @property
    def nbytes(self) -> int:
        """Memory of the columns."""
        return sum(column.nbytes for column in self._columns.values())

    def column(self, name: str) -> np.ndarray:
        """The values of a field, float64, one a row; NaN throughout if no event had it."""
        found = self._columns.get(name)
        values = np.full(self.rows, np.nan) if found is None else found[: self.rows]
        values.flags.writeable = False
        return values

    def columns(self) -> dict[str, np.ndarray]:
        """All fields as they are now."""
        return {name: self.column(name) for name in self._columns}

    def add(self, events: list[dict[str, Any]]) -> None:
        """Append the numbers of events that have a ``step``; what is no number is left out."""
        fields = _as_columns(events)
        steps = fields.get("step")
        if steps is None:
            return
        last = self._columns["step"][self.rows - 1] if self.rows else -np.inf
        if steps[0] > last and bool(np.all(steps[1:] > steps[:-1])):
            self._append(fields)
            return
        # somewhere in here a run begins again: put every rising stretch in its place
        cuts = [0, *(np.flatnonzero(steps[1:] <= steps[:-1]) + 1), len(steps)]
        for start, stop in pairwise(cuts):
            self.cut(steps[start])
            self._append({name: values[start:stop] for name, values in fields.items()})

    def cut(self, step: float) -> None:
        """Forget the rows from ``step`` on."""
        keep = int(np.searchsorted(self._columns["step"][: self.rows], step)) if self.rows else 0
        if keep < self.rows:
            self.redone += 1
            self.rows = keep
            self._columns = {name: values.copy() for name, values in self._columns.items()}  # the old ones are in use

    def replace(self, columns: Mapping[str, np.ndarray], redone: int) -> Table:
        """Take columns that were saved."""
        self._columns = dict(columns)
        self.rows = len(self._columns["step"]) if self._columns else 0
        self.redone = redone
        return self

    def _append(self, fields: dict[str, np.ndarray]) -> None:
        count = len(fields["step"])
        end = self.rows + count
        for name in fields:
            if name not in self._columns and len(self._columns) < _MOST_COLUMNS:
                self._columns[name] = np.full(self.rows, np.nan)
        for name, column in self._columns.items():
            if len(column) < end:
                larger = np.empty(max(end, int(_GROWTH * len(column)) + 64))
                larger[: self.rows] = column[: self.rows]
                self._columns[name] = column = larger
            values = fields.get(name)
            column[self.rows : end] = np.nan if values is None else values
        self.rows = end

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Table):
            return NotImplemented
        mine, others = self.columns(), other.columns()
        return mine.keys() == others.keys() and all(
            np.array_equal(mine[name], others[name], equal_nan=True) for name in mine
        )

    __hash__ = None  # it changes


def _as_columns(events: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Numeric fields of the events that have a step, NaN where one is missing; empty if none has."""
    alike = _alike(events)
    if alike is not None:
        return alike
    events = [event for event in events if _is_number(event.get("step"))]
    columns = {}
    for name in dict.fromkeys(name for event in events for name in event):
        values = [value if _is_number(value := event.get(name)) else np.nan for event in events]
        if not np.all(np.isnan(values)):
            columns[name] = np.array(values, dtype=np.float64)
    return columns


def _alike(events: list[dict[str, Any]]) -> dict[str, np.ndarray] | None:
    """The columns of events that all have the same fields, all of them numbers: nearly always. None if they differ."""
    names = [name for name in events[0] if name != "kind"]
    if "step" not in names or any(len(event) != len(names) + 1 for event in events):
        return None
    try:
        rows = np.array([*map(itemgetter("step", *names), events)], dtype=np.float64)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if not np.isfinite(rows[:, 0]).all():
        return None
    rows[~(np.abs(rows) < _LARGEST)] = np.nan  # as below: infinite is no number
    return {name: np.ascontiguousarray(column) for name, column in zip(names, rows.T[1:], strict=True)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST
