"""A run's life as events, and what a person asks of it: the callback that all trainers of a run have."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from studio.runs import EventLog, Run
from studio.training import ranks
from studio.training.gpu_state import gpu_state
from studio.training.memory_monitor import peak_memory_bytes

if TYPE_CHECKING:
    from studio.training.run_trainer import RunTrainer


class Stopped(Exception):
    """The run was asked to stop or to pause before its first step."""


class EventCallback(TrainerCallback):
    """Writes the trainer's life into ``events.jsonl`` and obeys the run's ``stop`` and ``pause`` files.

    Args:
        save_minutes: a checkpoint is also written when the last one is so old; 0 goes by steps alone.
    """

    def __init__(self, run: Run, log: EventLog, save_minutes: float = 0):
        self._run, self._log, self._save_seconds = run, log, 60 * save_minutes
        self.trainer: RunTrainer | None = None
        self._last = (time.monotonic(), 0)
        self._saved = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._last = (time.monotonic(), state.num_input_tokens_seen)
        self._saved = time.monotonic()
        self.trainer.ending = ranks.broadcast(self._run.ending)
        if self.trainer.ending:
            raise Stopped

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        now, tokens = time.monotonic(), state.num_input_tokens_seen
        seconds, new = now - self._last[0], tokens - self._last[1]
        self._last = (now, tokens)
        self._log.write(
            "step",
            step=state.global_step,
            loss=logs["loss"],
            learning_rate=logs.get("learning_rate"),
            grad_norm=logs.get("grad_norm"),
            epoch=round(state.epoch or 0.0, 4),
            tokens=tokens,
            tokens_per_second=round(new / seconds, 1) if seconds > 0 else None,
            memory_bytes=peak_memory_bytes(args.device.type),
            **gpu_state(args.device.type),
        )

    def leave_out(self, seconds: float) -> None:
        """Told of time that was not training time."""
        self._last = (self._last[0] + seconds, self._last[1])

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._last = (time.monotonic(), state.num_input_tokens_seen)  # its time is not training time

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        path = self._run.checkpoints_dir / f"checkpoint-{state.global_step}"
        self._log.write("checkpoint", step=state.global_step, path=str(path.relative_to(self._run.folder)))
        self._saved = time.monotonic()
        self._last = (self._saved, state.num_input_tokens_seen)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        due = bool(self._save_seconds) and time.monotonic() - self._saved >= self._save_seconds
        ending, due = ranks.broadcast((self._run.ending, due))
        if state.global_step >= state.max_steps:
            ending = None
        if ending:
            self.trainer.ending = ending
            control.should_save = control.should_training_stop = True
        if due:
            control.should_save = True
        last = control.should_training_stop or state.global_step >= state.max_steps
        if last and ending != "paused" and args.eval_strategy != "no":
            control.should_evaluate = True
        if last:
            control.should_save = control.should_log = True
