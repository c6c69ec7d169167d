"""TRL's ``SFTTrainer``, fed with already encoded examples, that computes logits only where there is loss."""

from __future__ import annotations

import math
from typing import Any

import datasets
import torch
from trl import SFTConfig, SFTTrainer

from studio.data import Encoded
from studio.models.labelled_loss import LabelledLoss
from studio.models.load import context_length
from studio.recipe import Recipe
from studio.runs import EventLog, Run
from studio.training import ranks
from studio.training.packing import packed, without_padding
from studio.training.run_trainer import RunTrainer, add_callbacks, arguments_for, schedule_start

_WIDTHS = 8


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
        total, count = ranks.all_reduce_sum(total, count)
        loss = total / max(count, 1)
        return {"loss": loss, "perplexity": math.exp(min(loss, 700)), "tokens": int(count)}


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
            pad_to_multiple_of=_width_multiple(recipe, model, device),
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=table,
        packing=recipe.train.packing,
        eval_dataset=None if held_out is None else _table(held_out),
        processing_class=tokenizer,
        event_log=log,
        schedule_start=schedule_start(recipe),
        loraplus_lr_ratio=getattr(recipe.method, "loraplus_lr_ratio", 0),
    )
    add_callbacks(trainer, run, recipe, log, examples)
    return trainer


def _width_multiple(recipe: Recipe, model: Any, device: str) -> int | None:
    """What the width of a batch is a multiple of; None leaves it as long as its longest row.

    On a CPU products in half precision get kernels of their own for each number of tokens, see
    :func:`studio.models.flat_batch.rounded`.
    """
    wanted = device == "cpu" and model.dtype in (torch.bfloat16, torch.float16)
    return _WIDTHS if wanted and (context_length(model) or 0) % _WIDTHS == 0 and not recipe.train.packing else None


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
