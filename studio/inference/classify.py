"""A run's classifier, as it was trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from studio.data.classes import FILE, Classes
from studio.errors import StudioError
from studio.inference.types import pinned_model
from studio.jobs.progress import Report, quiet
from studio.recipe import ModelSpec
from studio.runs import Run


@dataclass(frozen=True)
class Classifier:
    """A model in evaluation mode, its tokenizer, and what the numbers of its head mean."""

    model: Any
    tokenizer: Any
    classes: Classes


def open_classifier(run: Run, device: str = "cpu", progress: Report = quiet) -> Classifier:
    """Load the model of a run that puts texts into classes, in the number format that it was trained in.

    Raises:
        StudioError: the run is of another task or has no model yet, or its files are broken.
    """
    recipe, folder = run.recipe, run.model_dir
    if recipe.model.task != "seq_cls":
        raise StudioError(f"The run {run.id} writes text; it knows no classes.", "Use compare, or choose another run.")
    if not run.has_model:
        raise StudioError(
            f"The run {run.id} has no tuned model yet (it is {run.status}).",
            "Wait until it has finished, or stop it to get the model as it is; a failed run has none.",
        )
    from studio.models.classification import prepare
    from studio.models.load import load_model, load_tokenizer

    classes = Classes.load(folder / FILE)
    adapted = (folder / "adapter_config.json").exists()
    spec = pinned_model(recipe)
    if not adapted:
        spec = ModelSpec(id=str(folder), task="seq_cls", trust_remote_code=spec.trust_remote_code)
    progress(f"Loading {run.id}", 0, 0)
    tokenizer = load_tokenizer(folder, trust_remote_code=spec.trust_remote_code)
    dtype = recipe.resolved.dtype if recipe.resolved else None
    model = load_model(spec, device=device, dtype=dtype, classes=classes)
    prepare(tokenizer, model, recipe)
    if adapted:
        from peft import PeftModel

        from studio.models.efficient_hra_boft import turn_inputs
        from studio.models.initial_adapter import reading
        from studio.models.weight_check import check_adapter

        with reading(folder):
            model = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
            check_adapter(model, folder)
        turn_inputs(model)
    return Classifier(model.eval(), tokenizer, classes)
