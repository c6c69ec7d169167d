"""Events folded into what a person looks at. A cache: it is rebuilt from the file at any time."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np

from studio.runs.event_table import Table
from studio.runs.events import TERMINAL

SERIES = (
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "memory_bytes",
    "gpu_utilization",
    "gpu_temperature",
)
_SINGLE = ("started", "progress", "sample", "checkpoint", "warning", *TERMINAL)  # steps and evals come in numbers


@dataclass
class RunSnapshot:
    """The state of a run after some of its events; :meth:`add` folds in more.

    Attributes:
        points: the numbers of all ``step`` events, whatever fields they have.
        evals: the numbers of all ``eval`` events.
        ended: the terminal event, if the last one is terminal.
        stage: what the worker says it is doing, with ``done`` of ``total`` where it counts.
        first_time: when the first event was written, unix seconds.
        bad_events: lines of the event file that could not be used and were skipped.
    """

    points: Table = field(default_factory=Table)
    evals: Table = field(default_factory=Table)
    step: int = 0
    max_steps: int = 0
    epoch: float = 0.0
    loss: float | None = None
    eval_loss: float | None = None
    tokens: int = 0
    tokens_per_second: float | None = None
    started: dict[str, Any] | None = None
    ended: dict[str, Any] | None = None
    stage: dict[str, Any] | None = None
    warnings: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    samples: dict[int, dict[int, dict[str, Any]]] = field(default_factory=dict)  # by step, then by number of the prompt
    first_step_time: float | None = None
    first_step: int = 0
    last_time: float | None = None
    first_time: float | None = field(default=None, compare=False)
    bad_events: int = 0

    def add(self, events: list[dict[str, Any]]) -> RunSnapshot:
        """Fold in events, in order. Steps that a resumed run does again replace what was there."""
        self.bad_events += getattr(events, "bad", 0)
        for kind, same in groupby(events, itemgetter("kind")):
            group = list(same)
            self.last_time = group[-1].get("time", self.last_time)
            if self.first_time is None:
                self.first_time = group[0].get("time")
            if kind == "step":
                self._steps(group)
            elif kind == "eval":
                self._evals(group)
            elif kind in _SINGLE:
                for event in group:
                    getattr(self, f"_{kind}")(event)
            if kind not in TERMINAL:
                self.ended = None
        return self

    @property
    def curves(self) -> dict[str, tuple[list[int], list[float]]]:
        """For each of ``SERIES`` that has points, and for ``eval_loss``, steps and values as plain lists."""
        found = {name: _curve(self.points, name) for name in SERIES if name in self.points.names}
        if self.evals.rows:
            found["eval_loss"] = _curve(self.evals, "loss")
        return found

    @property
    def has_points(self) -> bool:
        """Whether there is anything to draw."""
        return bool(self.points.rows or self.evals.rows)

    def seconds_left(self, now: float) -> float | None:
        """Estimated seconds to the last step, at the pace so far; None until two steps are known."""
        if self.ended or self.first_step_time is None or self.step <= self.first_step or not self.max_steps:
            return None
        pace = (self.last_time - self.first_step_time) / (self.step - self.first_step)
        return max(0.0, pace * (self.max_steps - self.step) - max(0.0, now - self.last_time))

    def _started(self, event: dict[str, Any]) -> None:
        self.started, self.stage = event, None
        self.max_steps = event.get("max_steps", self.max_steps)
        self.first_step_time = None

    def _progress(self, event: dict[str, Any]) -> None:
        self.stage = event

    def _steps(self, events: list[dict[str, Any]]) -> None:
        if not all("step" in event for event in events):  # a foreign hand has been at the file
            events = [event for event in events if "step" in event]
        if not events:
            return
        first, last = events[0], events[-1]
        if first["step"] <= self.step:
            self.evals.cut(first["step"])  # measured by the attempt that is being replaced
        self.points.add(events)
        if self.first_step_time is None:
            self.first_step_time, self.first_step = first.get("time"), first["step"]
        self.step, self.stage = last["step"], None
        for name in ("loss", "epoch", "tokens", "tokens_per_second"):
            said = next((event[name] for event in reversed(events) if name in event), getattr(self, name))
            setattr(self, name, said)

    def _evals(self, events: list[dict[str, Any]]) -> None:
        self.evals.add(events)
        self.eval_loss = events[-1].get("loss")

    def _sample(self, event: dict[str, Any]) -> None:
        self.samples.setdefault(event["step"], {})[event.get("number", 0)] = event

    def _checkpoint(self, event: dict[str, Any]) -> None:
        self.checkpoints.append(event)

    def _warning(self, event: dict[str, Any]) -> None:
        self.warnings.append(event)

    def _end(self, event: dict[str, Any]) -> None:
        self.ended, self.stage = event, None

    _finished = _stopped = _failed = _paused = _end


def _curve(table: Table, name: str) -> tuple[list[int], list[float]]:
    values = table.column(name)
    there = np.isfinite(values)
    return table.column("step")[there].astype(np.int64).tolist(), values[there].tolist()
