"""Events folded into what a person looks at. A cache: it is rebuilt from the file at any time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from studio.runs.events import TERMINAL

SERIES = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_bytes")
_FOLDED = (
    "started",
    "progress",
    "step",
    "eval",
    "sample",
    "checkpoint",
    "warning",
    *TERMINAL,
)  # other kinds are not shown


@dataclass
class View:
    """The state of a run after some of its events; :meth:`add` folds in more.

    Attributes:
        curves: for each of ``SERIES`` and for ``eval_loss`` two lists as long as each other, steps and values.
        ended: the terminal event, if the last one is terminal.
        stage: what the worker says it is doing, with ``done`` of ``total`` where it counts.
    """

    curves: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
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

    def add(self, events: list[dict[str, Any]]) -> View:
        """Fold in events, in order. Steps that a resumed run does again replace what was there."""
        for event in events:
            self.last_time = event["time"]
            if event["kind"] in _FOLDED:
                getattr(self, f"_{event['kind']}")(event)
            if event["kind"] not in TERMINAL:
                self.ended = None
        return self

    def seconds_left(self, now: float) -> float | None:
        """Estimated seconds to the last step, at the pace so far; None until two steps are known."""
        if self.ended or self.first_step_time is None or self.step <= self.first_step or not self.max_steps:
            return None
        pace = (self.last_time - self.first_step_time) / (self.step - self.first_step)
        return max(0.0, pace * (self.max_steps - self.step) - max(0.0, now - self.last_time))

    def _point(self, name: str, step: int, value: float | None) -> None:
        steps, values = self.curves.setdefault(name, ([], []))
        while steps and steps[-1] >= step:
            steps.pop(), values.pop()
        if value is not None:
            steps.append(step)
            values.append(value)

    def _started(self, event: dict[str, Any]) -> None:
        self.started, self.stage = event, None
        self.max_steps = event.get("max_steps", self.max_steps)
        self.first_step_time = None

    def _progress(self, event: dict[str, Any]) -> None:
        self.stage = event

    def _step(self, event: dict[str, Any]) -> None:
        step = event["step"]
        for name in SERIES:
            if name in event:
                self._point(name, step, event[name])
        if self.first_step_time is None:
            self.first_step_time, self.first_step = event["time"], step
        self.step, self.stage = step, None
        self.loss = event.get("loss", self.loss)
        self.epoch = event.get("epoch", self.epoch)
        self.tokens = event.get("tokens", self.tokens)
        self.tokens_per_second = event.get("tokens_per_second", self.tokens_per_second)

    def _eval(self, event: dict[str, Any]) -> None:
        self._point("eval_loss", event["step"], event.get("loss"))
        self.eval_loss = event.get("loss")

    def _sample(self, event: dict[str, Any]) -> None:
        self.samples.setdefault(event["step"], {})[event.get("number", 0)] = event

    def _checkpoint(self, event: dict[str, Any]) -> None:
        self.checkpoints.append(event)

    def _warning(self, event: dict[str, Any]) -> None:
        self.warnings.append(event)

    def _end(self, event: dict[str, Any]) -> None:
        self.ended, self.stage = event, None

    _finished = _stopped = _failed = _end
