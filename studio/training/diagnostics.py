"""Watches a run: stops it when it has diverged, naming the rows, and warns of what looks wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from studio.data import Encoded
from studio.data.encode import IGNORE
from studio.data.encode_cache import short_text
from studio.recipe import Recipe
from studio.recipe.warnings import safer_rate
from studio.runs import EventLog
from studio.training.checkpoints import last_whole
from studio.training.curve_rules import RULES, Advice, Divergence, EmptyBatches, Point, Rule, Settings
from studio.training.failures import Diverged

ROWS = 16  # named at most
_OVERFLOWS = 20  # in a row: float16's scaler halves its scale at each, and starts at 2**16


class Batches:
    """The batches of the current step: which examples they hold, what their losses were (they stay on the device until
    somebody asks) and how many tokens carry loss."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._seen: list[tuple[list[int], torch.Tensor]] = []
        self.labelled: int | None = None

    def add(self, examples: list[int], labelled: int | None, loss: torch.Tensor) -> None:
        """``examples``: the numbers of the batch's examples; ``labelled``: None where no token carries loss ever."""
        self._seen.append((examples, loss))
        self.labelled = None if labelled is None else (self.labelled or 0) + labelled

    def finite(self) -> bool:
        return not self._seen or bool(torch.stack([loss for _, loss in self._seen]).isfinite().all())

    def examples(self) -> list[int]:
        """The examples of the step; only those of batches whose loss is not a number, if there are any."""
        broken = [examples for examples, loss in self._seen if not loss.isfinite()]
        chosen = broken or [examples for examples, _ in self._seen]
        return [number for examples in chosen for number in examples]


class Numbered:
    """A collator that also says which examples a batch holds (``examples``), and how many tokens of it carry loss
    (``labelled``; None in a batch of classes)."""

    def __init__(self, collate: Any):
        self.collate = collate

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collate(rows)
        if "example" not in rows[0]:
            return batch
        labelled = sum(label != IGNORE for row in rows for label in row["labels"][1:]) if "labels" in rows[0] else None
        numbers = [row["example"] if isinstance(row["example"], list) else [row["example"]] for row in rows]
        return {**batch, "examples": [number for inside in numbers for number in inside], "labelled": labelled}


class WatchCallback(TrainerCallback):
    """Feeds the rules with the curve, and ends a run that has diverged.

    Raises:
        Diverged: with the rows of the batch, before the optimizer has taken a step with what is not a number; or
            behind the logged step at which the loss has been too high for too long.
    """

    def __init__(self, log: EventLog, recipe: Recipe, trainer: Any, examples: list[Encoded]):
        self._log, self._spec, self.trainer, self.examples = log, recipe.train, trainer, examples
        self._safer_rate = safer_rate(recipe.method.kind, recipe.train.learning_rate)
        self._overflows, self._diverged = 0, False
        self.divergence = Divergence()
        self._rules = [rule(Settings()) for rule in RULES]
        self.empty = EmptyBatches()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        every = self._spec.logging_steps
        settings = Settings(
            learning_rate=self._spec.learning_rate,
            safer_rate=self._safer_rate,
            steps=max(1, state.max_steps // every),
            warmup=math.ceil(self._spec.warmup_steps / every),
            keep_best=self._spec.keep_best,
        )
        self._rules = [rule(settings) for rule in RULES]
        self.divergence = Divergence()
        for logged in state.log_history:  # of the run that this one goes on from: what was said is said
            self._feed(_point(logged), silent=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.batches.begin()

    def check_finite(self, norm: Any) -> None:
        """Called behind the backward pass, before the optimizer's step, with the norm of the gradient."""
        batches = self.trainer.batches
        norm = 0.0 if norm is None else float(norm)
        if batches.labelled is not None and (advice := self.empty.labelled(batches.labelled)):
            self._warn(advice, self.trainer.state.global_step + 1, self.empty)
        scaled = getattr(self.trainer.accelerator, "scaler", None) is not None
        if batches.finite() and (math.isfinite(norm) or self._tolerated(scaled)):
            self._overflows = self._overflows if not math.isfinite(norm) else 0
            return
        step = self.trainer.state.global_step + 1
        what = "gradient" if batches.finite() else "training loss"
        rows, every = self._rows()
        blamed = "" if every or not rows else f"row{_s(rows)} {_numbers(rows)}"
        self._end(
            f"The {what} is not a finite number at step {step:,}." + (f" It comes from {blamed}." if blamed else ""),
            f"Correct or remove {blamed}" if blamed else f"Lower train.learning_rate{self._lower()}",
            step,
            rows,
            bool(blamed),
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        point = _point({**logs, "step": state.global_step})
        self._feed(point)
        if self.divergence.above > 1 and state.global_step < state.max_steps:
            control.should_save = False  # the last checkpoint stays a good one
        if self._diverged:
            limit, start = self.divergence.limit, self.divergence.start
            self._end(
                f"The training loss has diverged: {point.loss:.3g} at step {point.step:,}, and it began at {start:.3g} "
                f"(more than {limit:.3g} at {self.divergence.above} logged steps in a row).",
                f"Lower train.learning_rate{self._lower()}, or warm up longer",
                point.step,
                self._rows()[0],
            )

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any
    ) -> None:
        loss = (metrics or {}).get("eval_loss")
        if loss is None or not math.isfinite(loss):
            return
        self._feed(Point(state.global_step, eval_loss=loss))

    def _feed(self, point: Point, silent: bool = False) -> None:
        if point.loss is not None:
            self._diverged = self.divergence.see(point.loss)
        for rule in self._rules:
            if (advice := rule.see(point)) and not silent:
                self._warn(advice, point.step, rule)

    def _warn(self, advice: Advice, step: int, rule: Rule) -> None:
        self._log.write("warning", what=advice.what, fix=advice.fix, step=step, rule=rule.name)

    def _tolerated(self, scaled: bool) -> bool:
        """Whether a gradient that is not finite is float16's scaler looking for its scale; it skips such a step."""
        self._overflows += 1
        return scaled and self._overflows < _OVERFLOWS

    def _rows(self) -> tuple[list[dict[str, Any]], bool]:
        """The rows of the step's batches, worst first (``row``, ``text``, ``loss``: null where it is not a number);
        only those whose own loss is not a number, if not all are so; and whether they are the whole batch."""
        numbers = self.trainer.batches.examples()
        several = self.trainer.args.world_size > 1  # a forward pass of one rank alone may wait for ever
        losses = [None] * len(numbers) if several else [self.trainer.row_loss(number) for number in numbers]
        broken = [i for i, loss in enumerate(losses) if loss is not None and not math.isfinite(loss)]
        apart = 0 < len(broken) < len(numbers)
        order = broken if apart else sorted(range(len(numbers)), key=lambda i: -_worse(losses[i]))
        rows = []
        for i in order[:ROWS]:
            example = self.examples[numbers[i]]
            loss = losses[i]
            rows.append(
                {
                    "row": example.row,
                    "text": short_text(example),
                    "loss": round(loss, 4) if loss is not None and math.isfinite(loss) else None,
                }
            )
        return rows, not apart

    def _lower(self) -> str:
        rate = self._spec.learning_rate
        return f" from {rate:g} to {self._safer_rate:g}"

    def _end(self, what: str, fix: str, step: int, rows: list[dict[str, Any]], blamed: bool = False) -> None:
        state, folder = self.trainer.state, Path(self.trainer.args.output_dir)
        kept = state.best_model_checkpoint or last_whole(folder)
        name = f"checkpoints/{Path(kept).name}" if kept else None
        best = ", the best one," if state.best_model_checkpoint else ""
        more = f" {name}{best} is kept." if name else ""
        fields = {"reason": "diverged", "step": step, "rows": rows, "blamed": blamed, "checkpoint": name}
        raise Diverged(what, f"{fix}.{more}", fields)


class Watched:
    """Stands before one of transformers' trainers and keeps what the batches of a step were and did."""

    watch: WatchCallback | None = None

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.batches = Batches()
        self.data_collator = Numbered(self.data_collator)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        examples, labelled = inputs.pop("examples", []), inputs.pop("labelled", None)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.batches.add(examples, labelled, loss)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        if self.watch:
            self.watch.check_finite(norm)
        return norm

    def row(self, number: int) -> dict[str, Any]:
        """One training example by itself, as the collator takes it."""
        return self.train_dataset[number]

    def row_loss(self, number: int) -> float:
        """The loss of one training example by itself, as the weights are now."""
        inputs = self.data_collator([self.row(number)])
        del inputs["examples"], inputs["labelled"]
        self.model.eval()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            loss = self.compute_loss(self.model, self._prepare_inputs(inputs)).item()
        self.model.train()
        return loss


def _point(logged: dict[str, Any]) -> Point:
    finite = {
        name: float(logged[name])
        for name in ("loss", "grad_norm")
        if logged.get(name) is not None and math.isfinite(logged[name])
    }
    return Point(logged.get("step", 0), **finite)


def _worse(loss: float | None) -> float:
    return 0.0 if loss is None else math.inf if not math.isfinite(loss) else loss


def _numbers(rows: list[dict[str, Any]]) -> str:
    return ", ".join(f"{row['row']:,}" for row in rows[:5]) + (", ..." if len(rows) > 5 else "")


def _s(rows: list[Any]) -> str:
    return "s"[: len(rows) != 1]
