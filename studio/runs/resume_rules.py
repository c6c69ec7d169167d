"""Which settings of a recipe may change in the middle of a run, and why the others may not."""

from __future__ import annotations

from typing import Any, Literal

Rule = Literal["refused", "ask", "free"]

_STATE = "The checkpoint holds this optimizer's state."
_SHAPE = "The trained weights of the checkpoint belong to it."
_ORDER = "The order of the rows and the steps of an epoch depend on it."
_NUMBERS = "It is chosen once for the whole run, so that its numbers stay comparable."

REFUSED = {
    "model.id": "The checkpoint was trained on this model.",
    "model.revision": "The checkpoint was trained on this revision.",
    "model.task": "It decides what the model is trained for.",
    "model.adapter": "The checkpoint was trained from this adapter.",
    "model.quantization": "The checkpoint was trained on weights in this format.",
    "model.double_quantization": "The checkpoint was trained on weights in this format.",
    "model.dtype": _NUMBERS,
    "model.attn_implementation": _NUMBERS,
    "train.torch_compile": _NUMBERS,
    "train.seed": _ORDER,
    "train.per_device_train_batch_size": _ORDER,
    "train.gradient_accumulation_steps": _ORDER,
    "train.num_processes": _ORDER,
    "train.group_by_length": _ORDER,
    "train.packing": _ORDER,
    "train.optim": _STATE,
    "train.distributed": _STATE,
}
FREE = (
    *("train.logging_steps", "train.eval_steps", "train.save_steps", "train.save_minutes", "train.save_total_limit"),
    *("train.sample_prompts", "train.sample_count", "train.sample_tokens", "train.report_to", "train.memory_limit_gb"),
    *("train.dataloader_num_workers", "train.per_device_eval_batch_size", "train.checkpoint_when_needed"),
    *("train.gradient_checkpointing", "model.trust_remote_code", "data.invalid_rows", "data.eval_split"),
)
"""They change no weight of the run, so they are neither named nor asked about."""

MEASURED = ("train.eval_steps", "data.eval_split")
"""Free only where no measurement decides which weights are kept, or when the run ends."""

ASKED = {
    "train.learning_rate": "The schedule goes on with the new rate from the next step.",
    "train.num_train_epochs": "The run, and the schedule of its learning rate, ends at another step.",
    "train.max_steps": "The run, and the schedule of its learning rate, ends at another step.",
    "train.lr_scheduler_type": "The new schedule is taken from the next step on.",
    "train.warmup_steps": "The schedule is computed anew from the next step on.",
    "train.decay_share": "The schedule is computed anew from the next step on.",
}
_ELSE = "It is used from the next step on."


def chooses_by_measuring(values: dict[str, Any]) -> bool:
    """Whether the validation loss decides which weights a run keeps or when it ends; ``values`` by field."""
    return bool(values.get("train.keep_best") or values.get("train.early_stopping_patience"))


def rule_of(field: str, measured: bool = False) -> tuple[Rule, str]:
    """Whether a field may change in the middle of a run, and why not or what follows.

    Args:
        measured: the validation loss decides which weights are kept, or when the run ends.
    """
    if measured and field in MEASURED:
        return "ask", "It decides which weights are kept, or when the run ends."
    if field in REFUSED:
        return "refused", REFUSED[field]
    if field.startswith("method."):
        return ("ask", _ELSE) if field.endswith("dropout") else ("refused", _SHAPE)
    if field in FREE:
        return "free", ""
    return "ask", ASKED.get(field, _ELSE)
