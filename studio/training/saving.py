"""What is left of a run: its adapter or whole model with tokenizer and card, and an adapter merged into its base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from studio.data.classes import FILE as CLASSES
from studio.data.classes import Classes
from studio.errors import StudioError
from studio.models.builtin import public_id
from studio.models.progress import Report, quiet
from studio.recipe import Recipe
from studio.recipe_methods import METHODS, WHOLE
from studio.runs import Run
from studio.training import ranks, starts
from studio.training.card import write_card


def save_model(run: Run, trainer: Any, tokenizer: Any, classes: Any = None) -> None:
    """Write ``model/`` aside and rename it: the adapter or the whole model, the tokenizer with its template, the
    classes of a classifier, a card."""
    aside = run.folder / "model.part"
    if ranks.is_first():
        shutil.rmtree(aside, ignore_errors=True)
    ranks.wait()
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        trainer.save_model(str(aside))  # its parts are brought together by all ranks
    elif ranks.is_first():
        trainer.model.save_pretrained(aside, **starts.saving(run))
    if not ranks.is_first():
        return
    tokenizer.save_pretrained(aside)
    if classes:
        classes.save(aside / CLASSES)
    _name_the_base(aside, run.recipe)
    write_card(aside, run)
    if run.model_dir.exists():
        run.model_dir.rename(run.folder / "model.old")
    aside.rename(run.model_dir)
    shutil.rmtree(run.folder / "model.old", ignore_errors=True)
    shutil.rmtree(starts.folder(run), ignore_errors=True)


def _name_the_base(folder: Path, recipe: Recipe) -> None:
    """Let the adapter name its base as others know it, and not by a path on this machine."""
    path = folder / "adapter_config.json"
    if path.exists():
        config = json.loads(path.read_text(encoding="utf-8"))
        config |= {"base_model_name_or_path": public_id(recipe.model.id), "revision": recipe.model.revision}
        path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def merge(run: Run, target: Path, *, dtype: str = "auto", progress: Report = quiet) -> Path:
    """Fold a run's adapter into its base and write a model that needs no PEFT.

    The base is taken without quantisation: a merge into 4-bit weights would round what was learned.

    Args:
        target: a folder that does not exist yet.
        dtype: number format of the merged weights; ``auto`` takes that of the run's base.

    Raises:
        StudioError: the run has no adapter, its method cannot be merged, or the folder is there already.
    """
    import torch
    from peft import PeftModel

    from studio.models.classifier import prepare
    from studio.models.continued import reading
    from studio.models.load import load_model, load_tokenizer

    recipe = run.recipe
    method = METHODS[recipe.method.kind]
    if not run.has_model:
        raise StudioError(f"The run {run.id} has no tuned model yet.", "Wait until it has finished, or stop it.")
    if recipe.method.kind in WHOLE:
        raise StudioError(
            f"{run.id} was tuned with {method.title}: its model is whole already.", f"It is in {run.model_dir}."
        )
    if not method.merges:
        raise StudioError(
            f"{method.title} adds something beside the weights, which cannot be folded into them.",
            "Use the adapter with its base, through PEFT.",
        )
    if target.exists():
        raise StudioError(f"{target} exists already.", "Name a folder that does not.")
    spec = recipe.model.model_copy(update={"quantization": "none"})
    if dtype == "auto":
        dtype = recipe.resolved.dtype if recipe.resolved and recipe.resolved.dtype else "float32"
    progress("Loading the model", 0, 0)
    tokenizer = load_tokenizer(run.model_dir, trust_remote_code=spec.trust_remote_code)
    # the product is computed in float32 and rounded once
    classes = Classes.load(run.model_dir / CLASSES) if spec.task == "seq_cls" else None
    model = load_model(spec, dtype="float32", classes=classes)
    prepare(load_tokenizer(spec), model, recipe)
    progress("Merging", 0, 0)
    with reading(run.model_dir):
        model = PeftModel.from_pretrained(model, run.model_dir).merge_and_unload(safe_merge=True)
    model.to(getattr(torch, dtype))
    progress("Saving the merged model", 0, 0)
    aside = target.with_name(f"{target.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    if classes:
        classes.save(aside / CLASSES)
    write_card(aside, run, merged=True)
    aside.rename(target)
    return target
