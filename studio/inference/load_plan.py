"""What opening a target takes: which weights, which adapter on them, and whether they can be shared."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from studio.errors import StudioError
from studio.inference.types import Target, pinned_model, saved_special_tokens_in_text, template_of
from studio.recipe import ModelSpec, Recipe, is_template_file
from studio.recipe.methods import TAKEN_STARTS
from studio.runs import Run

_SWITCHED = "LORA"  # adapters of this kind live in one model and are switched; others get modules of their own
# Starts that leave the base as it is. Loading an adapter with another one (PiSSA, OLoRA, LoftQ, CorDA) takes something
# out of the base weights, so that nobody else may use them.
_HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Plan:
    """What opening a target takes: the weights (by ``key``), and the adapter on them, if any.

    Attributes:
        folder: of the adapter or the whole model, where it is not a base.
        adapter: whether ``folder`` holds an adapter.
        switched: whether the adapter is one of several in one model; else it gets modules of its own, which share the
            base's tensors.
        special_tokens_in_text: how prompts are encoded, see ``data.special_tokens_in_text``.
    """

    target: Target
    spec: ModelSpec
    chat_template: str
    key: tuple
    handle_key: tuple
    folder: Path | None = None
    adapter: bool = False
    switched: bool = True
    special_tokens_in_text: str = "special"


def plan(target: Target) -> Plan:
    """How to open a target.

    Raises:
        StudioError: there is no such run, checkpoint or adapter, or it cannot be talked to.
    """
    _refuse_classifier(target)
    if target.kind == "base":
        assert target.model is not None
        key = _key(target.model, target.chat_template)
        typed = target.special_tokens_in_text
        own = ("base", target.name, typed, *key)
        return Plan(target, target.model, target.chat_template, key, own, special_tokens_in_text=typed)
    if target.kind == "adapter":
        from studio.models.initial_adapter import base_of, find_adapter

        folder = find_adapter(target.adapter)
        spec, typed = target.model or ModelSpec(id=base_of(folder)), saved_special_tokens_in_text(folder)
        return _adapter(target, spec, "auto", folder, typed)
    run = Run.open(target.run_id)
    recipe = run.recipe
    typed = recipe.data.special_tokens_in_text
    folder = checkpoint(run, recipe, target.step) if target.kind == "checkpoint" else run.model_dir
    if target.kind == "run" and not run.has_model:
        raise StudioError(
            f"The run {run.id} has no tuned model yet (it is {run.status}).",
            "Wait until it has finished, or stop it to get the model as it is; a failed run has none.",
        )
    if (folder / "adapter_config.json").exists():
        return _adapter(target, pinned_model(recipe), template_of(run, recipe), folder, typed)
    alone = target.kind == "checkpoint" and not (folder / "chat_template.jinja").exists()
    template = template_of(run, recipe) if alone else "auto"
    spec = ModelSpec(id=str(folder), dtype=recipe.model.dtype, trust_remote_code=recipe.model.trust_remote_code)
    stamp = (str(folder), _changed(folder))
    key, own = (*_key(spec, template), *stamp), (target.kind, typed, *stamp)
    return Plan(target, spec, template, key, own, folder, special_tokens_in_text=typed)


def checkpoint_steps(run: Run) -> list[int]:
    """The steps at which a run has checkpoints, newest first."""
    names = [path.name.removeprefix("checkpoint-") for path in run.checkpoints_dir.glob("checkpoint-*")]
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def checkpoint(run: Run, recipe: Recipe, step: int) -> Path:
    """The folder of a run's checkpoint that can be talked to.

    Raises:
        StudioError: it is not there, or not a model by itself.
    """
    folder = run.checkpoints_dir / f"checkpoint-{step}"
    if not folder.is_dir():
        steps = ", ".join(f"{run.id}@{number}" for number in checkpoint_steps(run)[:8])
        there = f"There are {steps}." if steps else "It has none; train.save_steps says when they are written."
        raise StudioError(f"The run {run.id} has no checkpoint at step {step}.", there)
    if getattr(recipe.method, "init_lora_weights", None) in TAKEN_STARTS:
        raise StudioError(
            f"{run.id}@{step} fits weights that {recipe.method.init_lora_weights} has changed, not the base as it is.",
            "Take the run's own model, which is written for the base as it is when the run ends.",
        )
    whole = (folder / "adapter_config.json").exists() or (folder / "config.json").exists()
    if not whole or not any(folder.glob("*.safetensors")):
        raise StudioError(
            f"The checkpoint {run.id}@{step} is no model by itself: its weights are spread over several processes' "
            "files, or not all of it is there.",
            "Take another checkpoint, or the run's own model.",
        )
    return folder


def _adapter(target: Target, spec: ModelSpec, template: str, folder: Path, typed: str) -> Plan:
    """An adapter on its base, which it shares with others where that changes nobody's numbers."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudioError(f"{folder / 'adapter_config.json'} cannot be read.", "Restore it, or train again.") from error
    kind, start = config.get("peft_type"), config.get("init_lora_weights")
    stamp = (str(folder), _changed(folder))
    # quantised layers keep numbers outside of their tensors, so a second set of modules would copy or miss them
    alone = start not in _HARMLESS_STARTS or (kind != _SWITCHED and spec.quantization != "none")
    key = _key(spec, template) + (stamp if alone else ())
    switched = kind == _SWITCHED or alone
    own = (target.kind, typed, *stamp)
    return Plan(target, spec, template, key, own, folder, True, switched, special_tokens_in_text=typed)


def _key(spec: ModelSpec, chat_template: str) -> tuple:
    """Equal for targets that can share weights; a template file counts by what is in it."""
    if is_template_file(chat_template):
        with contextlib.suppress(OSError, UnicodeDecodeError):  # prepare_chat will say what is wrong with it
            chat_template = Path(chat_template).expanduser().read_text(encoding="utf-8")
    return (spec.id, spec.revision, spec.dtype, spec.quantization, spec.trust_remote_code, chat_template)


def _refuse_classifier(target: Target) -> None:
    """Refuse a model that puts texts into classes, since it cannot answer."""
    model = Run.open(target.run_id).recipe.model if target.run_id else target.model
    if model is not None and model.task == "seq_cls":
        raise StudioError(
            f"{target.name or model.id} puts texts into classes and cannot answer a prompt.",
            "See what it says about the held-out rows: python app.py evaluate RUN, or predictions.jsonl in the run's "
            "folder.",
            field="model.task",
        )


def _changed(folder: Path) -> int:
    """When the weights in a folder were written (nanoseconds): a resumed run is another model."""
    return max((f.stat().st_mtime_ns for f in folder.glob("*.safetensors")), default=0)
