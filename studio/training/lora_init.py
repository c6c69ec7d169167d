"""Adapters that start at the base's weights or at the data: PiSSA, OLoRA and EVA, and how the first two are saved.

PiSSA and OLoRA take their first directions out of the base weights, which changes these. So that the saved adapter fits
the base as everybody has it, it is written as a LoRA of twice the rank: what was learned minus what was taken out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio.data import Encoded
from studio.recipe import Recipe
from studio.recipe.methods import TAKEN_STARTS
from studio.runs import Run
from studio.training import ranks

_EVA_ROWS = 64  # looked at for the directions of the data
_EVA_BATCH = 4


def folder(run: Run) -> Path:
    """Where the adapter stands as it started, while the run goes on."""
    return run.folder / "first_adapter"


def prepare(model: Any, recipe: Recipe, run: Run, examples: list[Encoded], *, resumed: bool) -> None:
    """Keep the start of an adapter that changes the base, or let it start at the data."""
    start = getattr(recipe.method, "init_lora_weights", "default")
    if start in TAKEN_STARTS:
        config = model.peft_config[model.active_adapter]
        config.init_lora_weights = True  # loaded to be subtracted, it must not take anything out again
        if ranks.is_main_process():
            model.save_pretrained(folder(run))
        config.init_lora_weights = start
    elif start == "eva" and not resumed and not recipe.model.adapter:
        from peft import initialize_lora_eva_weights

        initialize_lora_eva_weights(model, _batches(examples[:_EVA_ROWS], model.device), show_progress_bar=False)


def saving(run: Run) -> dict[str, Any]:
    """More arguments for ``save_pretrained`` of the tuned model."""
    if not folder(run).exists():
        return {}
    return {"path_initial_model_for_weight_conversion": str(folder(run))}


def _batches(examples: list[Encoded], device: Any) -> list[dict[str, Any]]:
    """Rows padded on the right, as the model takes them; labels as PEFT's EVA looks at them."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    made = []
    for at in range(0, len(examples), _EVA_BATCH):
        rows = [torch.tensor(e.input_ids) for e in examples[at : at + _EVA_BATCH]]
        marks = [torch.ones_like(row) for row in rows]
        ids, mask = (pad_sequence(each, batch_first=True).to(device) for each in (rows, marks))
        made.append({"input_ids": ids, "attention_mask": mask})
    return made
