"""TRL's ``SFTTrainer``, fed with already encoded examples, that computes logits only where there is loss."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
import torch
from torch.nn import functional
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from studio.data import Encoded
from studio.recipe import Recipe
from studio.runs import EventLog, Run
from studio.training.steps import planned_steps


class Stopped(Exception):
    """The run was asked to stop before its first step."""


@contextmanager
def labelled_positions(head: torch.nn.Module, mask: torch.Tensor) -> Iterator[None]:
    """Let the output head see only the positions in ``mask`` (batch, length): its logits are (positions, vocabulary).

    On a small model with a large vocabulary most of a step is the head, and most positions of a chat carry no loss;
    leaving them out changes neither the loss nor its gradients. The idea is that of the fused heads of Liger
    (https://arxiv.org/abs/2410.10989) and TRL, without tiles. Positions that a method puts in front of the sequence
    (virtual tokens) are passed over.
    """

    def select(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        (hidden,) = inputs
        return (hidden[:, hidden.shape[1] - mask.shape[1] :][mask],)

    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()


def labelled_loss(model: torch.nn.Module, head: torch.nn.Module, inputs: dict[str, Any]) -> tuple[torch.Tensor, int]:
    """Summed cross-entropy of the next token over all positions whose label is not -100, and how many there are.

    Args:
        inputs: ``input_ids``, ``attention_mask``, ``labels``, each (batch, length).
    """
    labels = functional.pad(inputs["labels"], (0, 1), value=-100)[:, 1:]
    mask = labels != -100
    targets = labels[mask]
    with labelled_positions(head, mask):
        logits = model(**{k: v for k, v in inputs.items() if k != "labels"}, use_cache=False).logits
    return functional.cross_entropy(logits.float(), targets, reduction="sum"), targets.numel()


class StudioTrainer(SFTTrainer):
    """``SFTTrainer`` with the loss taken at labelled positions only, and a validation loss that is exact per token."""

    was_stopped = False

    def __init__(self, *arguments: Any, event_log: EventLog, **options: Any):
        super().__init__(*arguments, **options)
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        self._head = base.get_output_embeddings()
        self._event_log = event_log
        self.final_metrics: dict[str, Any] = {}

    def planned_steps(self) -> int:
        """How many optimizer steps the whole run takes."""
        devices = max(1, self.args.n_gpu) * self.args.world_size
        return planned_steps(len(self.train_dataset), self.args, devices)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        assert not return_outputs, "the logits are not kept"
        total, count = labelled_loss(model, self._head, inputs)
        return total / (max(count, 1) if num_items_in_batch is None else num_items_in_batch)

    def evaluate(self, *arguments: Any, **options: Any) -> dict[str, float]:
        """Validation loss: mean over all labelled tokens of the held-out rows, not over batches.

        It leaves the random numbers of the training alone (a data loader draws one), so that a run goes the same way
        however often it is measured, and also if it is measured once more because it was stopped.
        """
        self.model.eval()
        total, count = 0.0, 0
        with torch.random.fork_rng(devices=[]), torch.no_grad(), self.compute_loss_context_manager():
            for inputs in self.get_eval_dataloader():
                loss, tokens = labelled_loss(self.model, self._head, self._prepare_inputs(inputs))
                total, count = total + loss.item(), count + tokens
        self.model.train()
        loss = total / max(count, 1)
        self.final_metrics["eval_loss"] = loss
        self._event_log.write(
            "eval", step=self.state.global_step, loss=loss, perplexity=math.exp(min(loss, 700)), tokens=count
        )
        metrics = {"eval_loss": loss}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Leave the writing of events to the callback; ``SFTTrainer`` would add metrics that are not computed here."""
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def create_model_card(self, *arguments: Any, **options: Any) -> None:
        """The run writes its own card, once."""


class EventCallback(TrainerCallback):
    """Writes the trainer's life into ``events.jsonl`` and obeys the run's ``stop`` file."""

    def __init__(self, run: Run, log: EventLog):
        self._run, self._log = run, log
        self.trainer: StudioTrainer | None = None
        self._last = (time.monotonic(), 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._last = (time.monotonic(), state.num_input_tokens_seen)
        if self._run.stopping:
            raise Stopped

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        from studio.training.worker import peak_memory_bytes

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
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._last = (time.monotonic(), state.num_input_tokens_seen)  # its time is not training time

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        path = self._run.checkpoints_dir / f"checkpoint-{state.global_step}"
        self._log.write("checkpoint", step=state.global_step, path=str(path.relative_to(self._run.folder)))
        self._last = (time.monotonic(), state.num_input_tokens_seen)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._run.stopping and state.global_step < state.max_steps:
            self.trainer.was_stopped = True
            control.should_save = control.should_training_stop = True
        last = control.should_training_stop or state.global_step >= state.max_steps
        if last and args.eval_strategy != "no":
            control.should_evaluate = True
        if last:
            control.should_save = control.should_log = True


def build_trainer(
    *,
    run: Run,
    recipe: Recipe,
    log: EventLog,
    model: Any,
    tokenizer: Any,
    examples: list[Encoded],
    held_out: list[Encoded] | None,
    device: str,
) -> StudioTrainer:
    """The trainer of a recipe over encoded examples. ``held_out`` None turns the validation loss off."""
    spec = recipe.train
    never = 10**9
    arguments = SFTConfig(
        output_dir=str(run.checkpoints_dir),
        num_train_epochs=spec.num_train_epochs,
        max_steps=spec.max_steps,
        per_device_train_batch_size=spec.per_device_train_batch_size,
        per_device_eval_batch_size=spec.per_device_eval_batch_size,
        gradient_accumulation_steps=spec.gradient_accumulation_steps,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=spec.lr_scheduler_type,
        warmup_steps=spec.warmup_steps,
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        optim=spec.optim,
        gradient_checkpointing=spec.gradient_checkpointing,
        train_sampling_strategy="group_by_length" if spec.group_by_length else "random",
        seed=spec.seed,
        data_seed=spec.seed,
        logging_steps=spec.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="no" if held_out is None else "steps",
        eval_steps=spec.eval_steps or never,
        save_strategy="steps",
        save_steps=spec.save_steps or never,
        save_total_limit=spec.save_total_limit,
        report_to="none",
        include_num_input_tokens_seen="non_padding",  # kept in the checkpoints
        use_cpu=device == "cpu",
        bf16=False,  # the weights are in their own dtype already; no autocast on top
        fp16=model.dtype == torch.float16,
        dataloader_pin_memory=device == "cuda",
        disable_tqdm=True,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    callback = EventCallback(run, log)
    trainer = StudioTrainer(
        model=model,
        args=arguments,
        train_dataset=_table(examples),
        eval_dataset=None if held_out is None else _table(held_out),
        processing_class=tokenizer,
        callbacks=[callback],
        event_log=log,
    )
    callback.trainer = trainer
    return trainer


def _table(examples: list[Encoded]) -> datasets.Dataset:
    """Columns ``input_ids``, ``labels`` and ``length`` (for grouping), as TRL's collator takes them."""
    return datasets.Dataset.from_dict(
        {
            "input_ids": [e.input_ids for e in examples],
            "labels": [e.labels for e in examples],
            "length": [len(e.input_ids) for e in examples],
        }
    )
