"""What is left of a run: its adapter or whole model with tokenizer and card, and an adapter merged into its base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from studio.data.classes import FILE as CLASSES
from studio.data.classes import Classes
from studio.data.stops import set_stops
from studio.errors import StudioError
from studio.jobs.progress import Report, quiet
from studio.models.builtin import public_id
from studio.recipe import Recipe
from studio.recipe.methods import METHODS, WHOLE
from studio.runs import Run
from studio.training import lora_init, ranks
from studio.training.model_card import write_card

_OLD = "model.old"  # the earlier model of a continued run, while the new one takes its place


def save_model(run: Run, trainer: Any, tokenizer: Any, classes: Any = None) -> None:
    """Write ``model/`` aside and rename it: the adapter or the whole model, the tokenizer with its template, the
    classes of a classifier, a card."""
    aside = run.folder / "model.part"
    if ranks.is_main_process():
        shutil.rmtree(aside, ignore_errors=True)
    ranks.wait()
    if not classes:
        set_stops(_settings(trainer.model), tokenizer)
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        trainer.save_model(str(aside))  # its parts are brought together by all ranks
    elif ranks.is_main_process():
        trainer.model.save_pretrained(aside, **lora_init.saving(run))
    if not ranks.is_main_process():
        return
    tokenizer.save_pretrained(aside)
    if classes:
        classes.save(aside / CLASSES)
    elif hasattr(trainer.model, "peft_config"):  # the base's own settings may not know how the template ends a turn
        _adapter_settings(trainer.model, tokenizer).save_pretrained(aside)
    _name_the_base(aside, run.recipe)
    write_card(aside, run)
    put_model_in_place(run, aside)
    shutil.rmtree(lora_init.folder(run), ignore_errors=True)


def put_model_in_place(run: Run, aside: Path) -> None:
    """Let the folder ``aside`` take the place of the run's earlier model, if it has one."""
    old = run.folder / _OLD
    if run.model_dir.exists():
        if old.exists():  # of a worker that was killed before it had removed it
            shutil.rmtree(old)
        run.model_dir.rename(old)
    aside.rename(run.model_dir)
    shutil.rmtree(old, ignore_errors=True)


def put_back_model(run: Run) -> None:
    """Restore the earlier model of a run whose worker was killed while another took its place."""
    old = run.folder / _OLD
    if ranks.is_main_process() and old.exists() and not run.model_dir.exists():
        old.rename(run.model_dir)


def _settings(model: Any) -> Any:
    """A model's generation settings; those of its configuration where it has none of its own."""
    from transformers import GenerationConfig

    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    if getattr(inner, "generation_config", None) is None:
        inner.generation_config = GenerationConfig.from_model_config(inner.config)
    return inner.generation_config


def _adapter_settings(model: Any, tokenizer: Any) -> Any:
    """What stands beside an adapter of its model's generation settings: how a reply begins, ends and is padded."""
    from transformers import GenerationConfig

    whole = _settings(model)
    return set_stops(GenerationConfig(bos_token_id=whole.bos_token_id, eos_token_id=whole.eos_token_id), tokenizer)


def _name_the_base(folder: Path, recipe: Recipe) -> None:
    """Let the adapter name its base as others know it, and not by a path on this machine."""
    path = folder / "adapter_config.json"
    if path.exists():
        config = json.loads(path.read_text(encoding="utf-8"))
        config |= {"base_model_name_or_path": public_id(recipe.model.id), "revision": recipe.model.revision}
        path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def merge(run: Run, target: Path, *, dtype: str = "auto", progress: Report = quiet) -> Path:
    """Fold a run's adapter into its base and write a model that needs no PEFT.

    Args:
        target: a folder that does not exist yet.
        dtype: number format of the merged weights; ``auto`` takes that of the run's base.

    Raises:
        StudioError: the run has no adapter, its method cannot be merged, or the folder is there already.
    """
    if run.has_model and run.recipe.method.kind in WHOLE:
        title = METHODS[run.recipe.method.kind].title
        raise StudioError(f"{run.id} was tuned with {title}: its model is whole already.", f"It is in {run.model_dir}.")
    check_merges(run)
    if target.exists():
        raise StudioError(f"{target} exists already.", "Name a folder that does not.")
    model, tokenizer, classes = tuned_model(run, progress=progress)
    progress("Merging", 0, 0)
    aside = target.with_name(f"{target.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    progress("Saving the merged model", 0, 0)
    write_whole(aside, run, folded(model), tokenizer, classes, dtype=dtype)
    aside.rename(target)
    return target


def check_merges(run: Run) -> None:
    """Refuse a run that gives no whole model.

    Raises:
        StudioError: it has no model yet, or its method cannot be folded into the weights.
    """
    method = METHODS[run.recipe.method.kind]
    if not run.has_model:
        raise StudioError(f"The run {run.id} has no tuned model yet.", "Wait until it has finished, or stop it.")
    if run.recipe.method.kind not in WHOLE and not method.merges:
        raise StudioError(
            f"{method.title} adds something beside the weights, which cannot be folded into them.",
            "Use the adapter with its base, through PEFT.",
        )


def tuned_model(run: Run, folder: Path | None = None, progress: Report = quiet) -> tuple[Any, Any, Classes | None]:
    """A run's model as it was trained, on the CPU in float32, where products are computed and rounded once.

    The base is taken without quantisation: a merge into 4-bit weights would round what was learned.

    Args:
        folder: a copy of the run's ``model/`` to read instead.

    Returns:
        The model (PEFT's around its base, where the run trained an adapter), its tokenizer, a classifier's classes.
    """
    from studio.models.classification import prepare
    from studio.models.load import load_model, load_tokenizer

    recipe, folder = run.recipe, folder or run.model_dir
    spec = recipe.pinned_model.model_copy(update={"quantization": "none"})
    progress("Loading the model", 0, 0)
    tokenizer = load_tokenizer(folder, trust_remote_code=spec.trust_remote_code, copied=True)
    classes = Classes.load(folder / CLASSES) if spec.task == "seq_cls" else None
    if recipe.method.kind in WHOLE:
        spec = spec.model_copy(update={"id": str(folder), "revision": None})
        return load_model(spec, dtype="float32", classes=classes), tokenizer, classes
    from peft import PeftModel

    from studio.models.initial_adapter import reading
    from studio.models.weight_check import check_adapter

    model = load_model(spec, dtype="float32", classes=classes)
    prepare(load_tokenizer(spec), model, recipe)
    with reading(folder):
        adapted = PeftModel.from_pretrained(model, folder)
        check_adapter(adapted, folder)
    return adapted, tokenizer, classes


def folded(model: Any) -> Any:
    """A model of :func:`tuned_model` with its adapter in its weights, if it has one; changed in place."""
    return model.merge_and_unload(safe_merge=True) if hasattr(model, "peft_config") else model


def write_whole(folder: Path, run: Run, model: Any, tokenizer: Any, classes: Classes | None, *, dtype: str) -> None:
    """Write a model that needs no PEFT, with tokenizer, classes and card; ``auto`` takes the format of the run."""
    import torch

    model.to(getattr(torch, trained_dtype(run) if dtype == "auto" else dtype))
    if not classes:
        set_stops(_settings(model), tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if classes:
        classes.save(folder / CLASSES)
    write_card(folder, run, merged=run.recipe.method.kind not in WHOLE)


def trained_dtype(run: Run) -> str:
    """The number format of the weights that a run trained with."""
    resolved = run.recipe.resolved
    return resolved.dtype if resolved and resolved.dtype else "float32"
