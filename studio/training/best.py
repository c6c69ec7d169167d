"""The best validation loss of a run: stopping when it gets no better, and keeping the weights that had it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from studio.runs import EventLog


class BestCallback(TrainerCallback, ExportableState):
    """Watches the validation loss.

    Args:
        patience: stop after so many measurements in a row without a better one; 0 never stops.
        keep: write a checkpoint at each new best; transformers then spares it when it removes old ones.
    """

    def __init__(self, log: EventLog, *, patience: int = 0, keep: bool = False):
        self._log, self._patience, self._keep = log, patience, keep
        self._waited = self._planned = 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        attributes = {"_waited": self._waited, "_planned": self._planned}
        return {"args": {"patience": self._patience, "keep": self._keep}, "attributes": attributes}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Go on counting; anew in a run that is continued: its end is another, or it had stopped early."""
        before = (state.stateful_callbacks or {}).get(
            type(self).__name__
        )  # of the checkpoint that the run goes on from
        if isinstance(before, dict):
            waited = before["attributes"]["_waited"]
            longer = before["attributes"].get("_planned", state.max_steps) != state.max_steps
            stopped = self._patience and waited >= self._patience
            self._waited = 0 if longer or stopped else waited
        self._planned = state.max_steps

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any
    ) -> None:
        loss = (metrics or {}).get("eval_loss")
        if loss is None or state.best_global_step == state.global_step:
            return
        if state.best_metric is None or loss < state.best_metric:
            state.best_metric, state.best_global_step, self._waited = loss, state.global_step, 0
            if self._keep:
                control.should_save = True
                state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{state.global_step}")
            return
        self._waited += 1
        if self._patience and self._waited >= self._patience and not control.should_training_stop:
            control.should_training_stop = True
            self._log.write(
                "warning",
                what=f"Stopped early: the validation loss was best at step {state.best_global_step:,} "
                f"({state.best_metric:.4f}) and has not got better in {self._waited} measurements.",
                fix="Set train.keep_best to keep those weights, or raise train.early_stopping_patience.",
            )
