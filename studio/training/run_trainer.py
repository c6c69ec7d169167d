"""What all trainers of a run share: whole checkpoints, measurements as events, a recipe as transformers' arguments."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import rotate_checkpoints

from studio.data import Encoded
from studio.models.weight_check import check_adapter, check_checkpoint
from studio.recipe import Recipe
from studio.runs import EventLog, Run
from studio.runs.origin import write_origin
from studio.training import adalora, checkpoints, ranks, trained_state
from studio.training.batch_sharding import SharingTrainer
from studio.training.best import BestCallback
from studio.training.diagnostics import WatchCallback, Watched
from studio.training.event_callback import EventCallback
from studio.training.step_count import planned_steps

_RATES = ("initial_lr", "weight_decay", "betas")  # of a group of parameters, as the recipe names them


def _shifted(factor: Callable[[int], float], start: int) -> Callable[[int], float]:
    return lambda step: factor(max(0, step - start))


class RunTrainer(Watched, SharingTrainer):
    """What every trainer of a run has in common; stands before one of transformers' trainers.

    A subclass says what is measured: ``measure`` gives the fields of an ``eval`` event, ``loss`` among them.
    """

    ending: str | None = None  # ``stopped`` or ``paused``, once the run was asked to end before its last step
    origin: dict[str, Any] = {}  # what the checkpoints are made from  # noqa: RUF012
    reported: tuple[str, ...] = ()  # what of the last measurement the terminal event repeats, beside the loss

    def __init__(
        self,
        *arguments: Any,
        event_log: EventLog,
        loraplus_lr_ratio: float = 0,
        schedule_start: int = 0,
        **options: Any,
    ):
        super().__init__(*arguments, **options)
        self._schedule_start = schedule_start
        self._event_log = event_log
        self._loraplus_lr_ratio = loraplus_lr_ratio
        self._adalora = adalora.is_adalora(self.model)
        self._aside: Path | None = None  # where a checkpoint is being written
        if hasattr(self.model, "create_or_update_model_card"):  # PEFT's, at each saving: save_model writes another
            self.model.create_or_update_model_card = _no_card
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

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule of the learning rate; of a continued run it may begin anew at a later step."""
        start = self._schedule_start
        scheduler = super().create_scheduler(num_training_steps - start, optimizer)
        if start:
            scheduler.lr_lambdas = [_shifted(factor, start) for factor in scheduler.lr_lambdas]
        return scheduler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load their states, but take the recipe's rates: the states hold those that the checkpoint was made with.

        Where neither the rates nor the schedule have changed, these are the same numbers to the bit.
        """
        asked = [{name: group[name] for name in _RATES if name in group} for group in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        scheduler = self.lr_scheduler
        if checkpoint is None or not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
            return
        groups = self.optimizer.param_groups
        scheduler.base_lrs = [wanted["initial_lr"] for wanted in asked]
        rates = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        scheduler._last_lr = [base * factor(scheduler.last_epoch) for base, factor in rates]
        for group, wanted, rate in zip(groups, asked, scheduler._last_lr, strict=True):
            group.update(wanted)
            group["lr"] = rate

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
            if trained_state.is_needed(self.model) and ranks.is_main_process():
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
        if ranks.is_main_process():
            self.state.save_to_json(str(folder / checkpoints.ASIDE / name / "trainer_state.json"))
            self.save_order(folder / checkpoints.ASIDE / name)
            write_origin(folder / checkpoints.ASIDE / name, self.origin)
            checkpoints.put_in_place(folder, name)
            rotate_checkpoints(str(folder), self.args.save_total_limit, self.state.best_model_checkpoint)
        ranks.wait()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        if trained_state.is_needed(self.model):
            trained_state.load(self.model, folder)
            return
        adapted = hasattr(self.model, "peft_config")
        spread = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if not adapted and not spread:
            check_checkpoint(self.model, folder)
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if adapted and not spread:
            check_adapter(self.model, folder, self.model.active_adapters[0])

    def evaluate(self, *arguments: Any, **options: Any) -> dict[str, float]:
        """Measure the held-out rows and write it down.

        It leaves the random numbers of the training alone (a data loader draws one), so that a run goes the same way
        however often it is measured, and also if it is measured once more because it was stopped.
        """
        self.model.eval()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            found = ranks.broadcast(self.measure())
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


def _no_card(folder: str) -> None:
    """Stand in for ``PeftModel.create_or_update_model_card``."""


def arguments_for(run: Run, recipe: Recipe, model: Any, rows: int, measured: bool, device: str) -> dict[str, Any]:
    """A recipe as transformers' ``TrainingArguments``, whatever is learnt.

    Args:
        rows: how many are trained on.
        measured: whether there are held-out rows.
    """
    spec = recipe.train
    never = 10**9
    steps = planned_steps(rows, spec, ranks.count()) - schedule_start(recipe)
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
        use_cache=True,  # transformers' False would be saved with the model, for everyone who generates with it
        **ranks.arguments(recipe, device),
    )


def schedule_start(recipe: Recipe) -> int:
    """The step after which the schedule of the learning rate begins."""
    return recipe.resolved.schedule_start if recipe.resolved else 0


def add_callbacks(trainer: RunTrainer, run: Run, recipe: Recipe, log: EventLog, examples: list[Encoded]) -> None:
    """Let a trainer write events and obey the run, watch the curves, and prune, as the recipe says."""
    spec = recipe.train
    callback = EventCallback(run, log, spec.save_minutes)
    callback.trainer, trainer.events = trainer, callback
    trainer.add_callback(callback)
    trainer.watch = WatchCallback(log, recipe, trainer, examples)
    trainer.add_callback(trainer.watch)
    if trainer.eval_dataset is not None and (spec.keep_best or spec.early_stopping_patience):
        trainer.add_callback(BestCallback(log, patience=spec.early_stopping_patience, keep=spec.keep_best))
    if recipe.method.kind == "adalora":
        trainer.add_callback(adalora.PruneCallback())
