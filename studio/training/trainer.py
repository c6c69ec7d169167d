"""What all trainers of a run share; and TRL's ``SFTTrainer``, fed with already encoded examples, that computes logits
only where there is loss."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import TrainerCallback
from transformers.trainer_utils import rotate_checkpoints
from trl import SFTConfig, SFTTrainer

from studio.data import Encoded
from studio.models.loss import LabelledLoss
from studio.recipe import Recipe
from studio.runs import EventLog, Run
from studio.training import adalora, checkpoints, ranks, trained_state
from studio.training.best import BestCallback
from studio.training.gpu import gpu_state
from studio.training.memory import peak_memory_bytes
from studio.training.packing import packed, without_padding
from studio.training.share import SharingTrainer
from studio.training.steps import planned_steps
from studio.training.watch import WatchCallback, Watched


class Stopped(Exception):
    """The run was asked to stop or to pause before its first step."""


class RunTrainer(Watched, SharingTrainer):
    """What every trainer of a run has in common; stands before one of transformers' trainers.

    A subclass says what is measured: ``measure`` gives the fields of an ``eval`` event, ``loss`` among them.
    """

    ending: str | None = None  # ``stopped`` or ``paused``, once the run was asked to end before its last step
    reported: tuple[str, ...] = ()  # what of the last measurement the terminal event repeats, beside the loss

    def __init__(self, *arguments: Any, event_log: EventLog, loraplus_lr_ratio: float = 0, **options: Any):
        super().__init__(*arguments, **options)
        self._event_log = event_log
        self._loraplus_lr_ratio = loraplus_lr_ratio
        self._adalora = adalora.is_adalora(self.model)
        self._aside: Path | None = None  # where a checkpoint is being written
        self.final_metrics: dict[str, Any] = {}

    def measure(self) -> dict[str, float]:
        raise NotImplementedError

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: nobody reads it, and transformers goes through all parameters for it at each step."""
        return 0

    def some_batch(self) -> dict[str, Any]:
        """Rows of middle length as a batch."""
        lengths = self.train_dataset["length"]
        count = min(self.args.per_device_train_batch_size, len(lengths))
        first = (len(lengths) - count) // 2
        rows = sorted(range(len(lengths)), key=lengths.__getitem__)[first : first + count]
        return self.data_collator([self.train_dataset[row] for row in rows])

    def planned_steps(self) -> int:
        """How many optimizer steps the whole run takes."""
        devices = max(1, self.args.n_gpu) * self.args.world_size
        return planned_steps(len(self.train_dataset), self.args, devices)

    def create_optimizer(self, *arguments: Any, **options: Any) -> torch.optim.Optimizer:
        """LoRA+ gives the second matrices a learning rate of their own (https://arxiv.org/abs/2402.12354)."""
        if self.optimizer is None and self._loraplus_lr_ratio:
            from peft.optimizers import create_loraplus_optimizer

            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = create_loraplus_optimizer(
                self.model,
                kind,
                loraplus_lr_ratio=self._loraplus_lr_ratio,
                loraplus_weight_decay=self.args.weight_decay,
                **settings,
            )
            return self.optimizer
        return super().create_optimizer(*arguments, **options)

    def penalty(self) -> torch.Tensor | float:
        """What the method adds to the loss of a batch: AdaLoRA keeps its directions apart, others add nothing."""
        return adalora.penalty(self.model) / self.args.gradient_accumulation_steps if self._adalora else 0.0

    def take_best(self) -> None:
        """Put the weights with the lowest validation loss in place of the last ones, if a checkpoint has them."""
        state = self.state
        if state.best_model_checkpoint and state.best_global_step != state.global_step:
            self._load_from_checkpoint(str(self._best_checkpoint()))
            self.final_metrics |= {"eval_loss": state.best_metric, "best_step": state.best_global_step}

    def _best_checkpoint(self) -> Path | None:
        """The checkpoint with the lowest validation loss; its name is what counts, since run folders move."""
        best = self.state.best_model_checkpoint
        return Path(self.args.output_dir) / Path(best).name if best else None

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._aside or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint aside, and put it in its place once it is whole and on the disk; then let old ones go."""
        folder = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        self._aside = folder / checkpoints.ASIDE
        try:
            if trained_state.is_needed(self.model) and ranks.is_first():
                trained_state.save(self.model, self._aside / name)
            super()._save_checkpoint(model, trial)
        except Exception:
            shutil.rmtree(self._aside / name, ignore_errors=True)  # of a full disk: the last event needs room
            raise
        finally:
            self._aside = None
        best = f"checkpoint-{self.state.best_global_step}"
        if best == name or (folder / best).is_dir():
            self.state.best_model_checkpoint = str(folder / best)
        ranks.wait()  # every rank has put its random numbers into it
        if ranks.is_first():
            self.state.save_to_json(str(folder / checkpoints.ASIDE / name / "trainer_state.json"))
            self.save_order(folder / checkpoints.ASIDE / name)
            checkpoints.put_in_place(folder, name)
            rotate_checkpoints(str(folder), self.args.save_total_limit, self.state.best_model_checkpoint)
        ranks.wait()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if trained_state.is_needed(self.model):
            trained_state.load(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def evaluate(self, *arguments: Any, **options: Any) -> dict[str, float]:
        """Measure the held-out rows and write it down.

        It leaves the random numbers of the training alone (a data loader draws one), so that a run goes the same way
        however often it is measured, and also if it is measured once more because it was stopped.
        """
        self.model.eval()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            found = ranks.same(self.measure())
        self.model.train()
        self.final_metrics |= {"eval_loss": found["loss"], **{name: found[name] for name in self.reported}}
        self._event_log.write("eval", step=self.state.global_step, **found)
        if self.args.report_to:
            told = {f"eval_{name}": value for name, value in found.items()}
            self.control = self.callback_handler.on_log(self.args, self.state, self.control, told)
        metrics = {"eval_loss": found["loss"]}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Leave the writing of events to the callback; ``SFTTrainer`` would add metrics that are not computed here."""
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def create_model_card(self, *arguments: Any, **options: Any) -> None:
        """The run writes its own card, once."""


class StudioTrainer(RunTrainer, SFTTrainer):
    """``SFTTrainer`` with the loss taken at labelled positions only, and a validation loss that is exact per token.

    Args:
        packing: whether the training rows have several examples each.

    ``padding_free``: the model gets the rows of a batch one behind another.
    """

    padding_free = False

    def __init__(self, *arguments: Any, packing: bool = False, **options: Any):
        super().__init__(*arguments, **options)
        self.data_collator.collate.return_position_ids = packing
        # noise on the embeddings is drawn for each row, so a shared beginning would not be the same for all
        self.loss = LabelledLoss(
            self.model,
            one_row=not self.args.neftune_noise_alpha and not self.is_fsdp_enabled,
            whole_head=not self.is_fsdp_enabled and not self.is_deepspeed_enabled,
        )

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        assert not return_outputs, "the logits are not kept"
        positions = inputs.get("position_ids")
        total, count = self._loss(model, inputs, self.args.label_smoothing_factor, positions)
        if num_items_in_batch is None:
            num_items_in_batch = count
        loss = total / torch.as_tensor(num_items_in_batch).clamp(min=1)  # of none the loss is 0
        return self.over_ranks(loss, num_items_in_batch) + self.penalty()

    def row(self, number: int) -> dict[str, Any]:
        return _table([self.watch.examples[number]])[0]  # training rows may have several examples

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = [*{*self._signature_columns, "example"}]

    def _loss(
        self, model: Any, inputs: dict[str, Any], smoothing: float = 0.0, positions: Any = None
    ) -> tuple[torch.Tensor, int]:
        """Summed cross-entropy of the next token over all labelled positions, and how many there are."""
        batch = inputs["input_ids"], inputs["attention_mask"], inputs["labels"]
        if self.padding_free:
            *batch, positions = without_padding(*batch)
        return self.loss(*batch, model, positions, smoothing)

    def measure(self) -> dict[str, float]:
        """Mean loss over all labelled tokens of the held-out rows, not over batches."""
        total, count = 0.0, 0
        with self.compute_loss_context_manager():
            for inputs in self.eval_batches():
                loss, tokens = self._loss(self.model, self._prepare_inputs(inputs))
                total, count = total + loss.item(), count + tokens
        total, count = ranks.summed(total, count)
        loss = total / max(count, 1)
        return {"loss": loss, "perplexity": math.exp(min(loss, 700)), "tokens": int(count)}


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
        self.trainer.ending = ranks.same(self._run.ending)
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
        ending, due = ranks.same((self._run.ending, due))
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


def arguments_for(run: Run, recipe: Recipe, model: Any, rows: int, measured: bool, device: str) -> dict[str, Any]:
    """A recipe as transformers' ``TrainingArguments``, whatever is learnt.

    Args:
        rows: how many are trained on.
        measured: whether there are held-out rows.
    """
    spec = recipe.train
    never = 10**9
    steps = planned_steps(rows, spec, ranks.count())
    falling = {"num_decay_steps": max(1, int(steps * spec.decay_share))}
    return dict(
        output_dir=str(run.checkpoints_dir),
        num_train_epochs=spec.num_train_epochs,
        max_steps=spec.max_steps,
        per_device_train_batch_size=spec.per_device_train_batch_size,
        per_device_eval_batch_size=spec.per_device_eval_batch_size,
        gradient_accumulation_steps=spec.gradient_accumulation_steps,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=spec.lr_scheduler_type,
        lr_scheduler_kwargs=falling if spec.lr_scheduler_type == "warmup_stable_decay" else {},
        warmup_steps=spec.warmup_steps,
        weight_decay=spec.weight_decay,
        adam_beta1=spec.adam_beta1,
        adam_beta2=spec.adam_beta2,
        max_grad_norm=spec.max_grad_norm,
        optim=spec.optim,
        optim_target_modules=["attn", "mlp"] if spec.optim in ("galore_adamw", "apollo_adamw") else None,
        neftune_noise_alpha=spec.neftune_noise_alpha or None,
        label_smoothing_factor=spec.label_smoothing_factor,
        gradient_checkpointing=spec.gradient_checkpointing,
        train_sampling_strategy="group_by_length" if spec.group_by_length else "random",
        seed=spec.seed,
        data_seed=spec.seed,
        logging_steps=spec.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if measured else "no",
        eval_steps=spec.eval_steps or never,
        save_strategy="steps",
        save_steps=spec.save_steps or never,
        save_total_limit=spec.save_total_limit,
        report_to=spec.report_to,
        run_name=run.id,
        project="sft-studio",
        include_num_input_tokens_seen="non_padding",  # kept in the checkpoints
        use_cpu=device == "cpu",
        bf16=False,  # the weights are in their own dtype already; no autocast on top
        fp16=model.dtype == torch.float16,
        dataloader_pin_memory=device == "cuda",
        disable_tqdm=True,
        use_cache=True,  # left at transformers' False it would turn batches as one row off, see can_share
        **ranks.arguments(recipe, device),
    )


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
    table = _table(examples)
    if recipe.train.packing:
        table = datasets.Dataset.from_list(packed(examples, recipe.data.max_length))
    trainer = StudioTrainer(
        model=model,
        args=SFTConfig(
            **arguments_for(run, recipe, model, len(table), held_out is not None, device),
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=table,
        packing=recipe.train.packing,
        eval_dataset=None if held_out is None else _table(held_out),
        processing_class=tokenizer,
        event_log=log,
        loraplus_lr_ratio=getattr(recipe.method, "loraplus_lr_ratio", 0),
    )
    add_callbacks(trainer, run, recipe, log, examples)
    return trainer


def add_callbacks(trainer: RunTrainer, run: Run, recipe: Recipe, log: EventLog, examples: list[Encoded]) -> None:
    """Let a trainer write events and obey the run, watch the curves, and prune, as the recipe says."""
    spec = recipe.train
    callback = EventCallback(run, log, spec.save_minutes)
    callback.trainer, trainer.events = trainer, callback
    trainer.add_callback(callback)
    trainer.watch = WatchCallback(log, spec, trainer, examples)
    trainer.add_callback(trainer.watch)
    if trainer.eval_dataset is not None and (spec.keep_best or spec.early_stopping_patience):
        trainer.add_callback(BestCallback(log, patience=spec.early_stopping_patience, keep=spec.keep_best))
    if recipe.method.kind == "adalora":
        trainer.add_callback(adalora.PruneCallback())


def _table(examples: list[Encoded]) -> datasets.Dataset:
    """Columns ``input_ids``, ``labels`` and ``length`` (for grouping), as TRL's collator takes them, and ``example``,
    its number."""
    return datasets.Dataset.from_dict(
        {
            "input_ids": [e.input_ids for e in examples],
            "labels": [e.labels for e in examples],
            "length": [len(e.input_ids) for e in examples],
            "example": range(len(examples)),
        }
    )
