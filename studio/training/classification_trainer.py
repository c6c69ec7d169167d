"""transformers' ``Trainer`` for putting texts into classes; events, checkpoints and arguments as for text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from studio.data import Encoded
from studio.data.classes import FILE, Classes
from studio.errors import StudioError
from studio.models.class_scores import confusion, predicted, probabilities, scores
from studio.models.classification import as_tensor, logits_of, mean_loss, padded, summed_loss
from studio.models.initial_adapter import adapter_folder
from studio.recipe import Recipe
from studio.runs import EventLog, Run
from studio.training.run_trainer import RunTrainer, add_callbacks, arguments_for, schedule_start


class ClassificationTrainer(RunTrainer, Trainer):
    """Cross-entropy over the classes, or binary cross-entropy of each class where a text may belong to several.

    Args:
        held_out: what is measured; None for nothing.
        folder: the run's.
    """

    reported = ("accuracy", "macro_f1")

    def __init__(self, *arguments: Any, classes: Classes, held_out: list[Encoded] | None, folder: Path, **options: Any):
        super().__init__(*arguments, **options)
        self.model_accepts_loss_kwargs = True  # so that rows are counted over the batches of a step
        self._classes, self._held_out, self._folder = classes, held_out, folder
        self._logits: torch.Tensor | None = None  # of the held-out rows, as the weights are now

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        assert not return_outputs, "the logits are not kept"
        labels = inputs["labels"]
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        total = summed_loss(logits, labels, self.args.label_smoothing_factor)
        loss = total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)
        return self.over_ranks(loss, num_items_in_batch) + self.penalty()

    def measure(self) -> dict[str, float]:
        """Mean loss of the held-out rows as the weights are now, accuracy and macro F1."""
        self._logits = logits_of(
            self.model,
            [example.input_ids for example in self._held_out],
            self.processing_class.pad_token_id,
            batch_size=self.args.per_device_eval_batch_size,
        )
        wanted, given, _ = self._answers()
        found = scores(wanted, given, self._classes.names)
        return {"loss": mean_loss(self._logits, wanted), **{name: found[name] for name in self.reported}}

    def take_best(self) -> None:
        last = dict(self.final_metrics)
        super().take_best()
        if self.final_metrics != last:
            found = self.measure()
            self.final_metrics |= {name: found[name] for name in self.reported}

    def _answers(self) -> tuple[list[Any], list[Any], Any]:
        """Of the held-out rows: the classes wanted, those given, and the probabilities (rows, classes)."""
        shares = probabilities(self._logits, self._classes.multi_label)
        return [example.label for example in self._held_out], predicted(shares, self._classes.multi_label), shares

    def write_predictions(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write ``predictions.jsonl`` and ``confusion.json`` of the held-out ``rows`` into the run's folder.

        ``probability`` is that of the predicted class; where a text may belong to several, of every class by name.
        """
        if self._logits is None:  # a run that was resumed after its last step has measured nothing
            self.measure()
        assert len(rows) == len(self._held_out)
        wanted, given, shares = self._answers()
        names, lines = self._classes.names, []
        for row, one, share in zip(rows, given, shares.round(6).tolist(), strict=True):
            probability = dict(zip(names, share, strict=True)) if self._classes.multi_label else share[one]
            line = {"row": row["row"], "text": row["text"], "label": row["label"]}
            line |= {"predicted": self._classes.named(one), "probability": probability}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        _replace(self._folder / "predictions.jsonl", "".join(lines))
        _replace(self._folder / "confusion.json", json.dumps(confusion(wanted, given, names), ensure_ascii=False))


def same_classes(recipe: Recipe, classes: Classes) -> None:
    """Refuse to go on from an adapter whose head tells other classes apart.

    Raises:
        StudioError: with what the two differ in.
    """
    if not recipe.model.adapter:
        return
    earlier = Classes.load(adapter_folder(recipe) / FILE)
    if (earlier.names, earlier.multi_label) != (classes.names, classes.multi_label):
        other = sorted({*earlier.names} ^ {*classes.names}) or ["one or several classes a text"]
        raise StudioError(
            f"The adapter {recipe.model.adapter} knows other classes than this data has: {', '.join(other)[:300]}.",
            "Train anew, or use data with the same classes.",
            field="model.adapter",
        )


def collated(examples: list[dict[str, Any]], pad_token_id: int, classes: int) -> dict[str, torch.Tensor]:
    """A batch: ``input_ids``, ``attention_mask`` (rows, longest) and ``labels``."""
    batch = padded([example["input_ids"] for example in examples], pad_token_id)
    return batch | {"labels": as_tensor([example["label"] for example in examples], classes)}


def build_classifier(
    *,
    run: Run,
    recipe: Recipe,
    log: EventLog,
    model: Any,
    tokenizer: Any,
    examples: list[Encoded],
    held_out: list[Encoded] | None,
    device: str,
    classes: Classes,
) -> ClassificationTrainer:
    """The trainer of a recipe over texts with their classes. ``held_out`` None turns the validation off."""
    import datasets

    columns = {
        "input_ids": [example.input_ids for example in examples],
        "label": [example.label for example in examples],
        "length": [len(example.input_ids) for example in examples],
        "example": range(len(examples)),
    }
    trainer = ClassificationTrainer(
        model=model,
        args=TrainingArguments(
            **arguments_for(run, recipe, model, len(examples), held_out is not None, device),
            remove_unused_columns=False,
        ),
        train_dataset=datasets.Dataset.from_dict(columns),
        eval_dataset=None if held_out is None else datasets.Dataset.from_dict({"label": [e.label for e in held_out]}),
        data_collator=lambda rows: collated(rows, tokenizer.pad_token_id, len(classes.names)),
        processing_class=tokenizer,
        event_log=log,
        schedule_start=schedule_start(recipe),
        loraplus_lr_ratio=getattr(recipe.method, "loraplus_lr_ratio", 0),
        classes=classes,
        held_out=held_out,
        folder=run.folder,
    )
    add_callbacks(trainer, run, recipe, log, examples)
    return trainer


def _replace(path: Path, text: str) -> None:
    aside = path.with_name(f"{path.name}.part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
