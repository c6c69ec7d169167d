"""The form, derived from the recipe's types: one component a field, with its label, help, unit and default."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin

import gradio as gr
import yaml
from pydantic.fields import FieldInfo

from studio.errors import StudioError
from studio.recipe import METHODS, SECTIONS, MixSpec, Recipe
from studio.recipe.methods import WHOLE
from studio.recipe.recipe import field_at
from studio.recipe.settings import Section, limits_of, step_of
from studio.recipe.yaml_file import read_yaml

LABELS = {
    "method.kind": "Method",
    "model.id": "Base model",
    "model.task": "Task",
    "model.dtype": "Precision (dtype)",
    "model.attn_implementation": "Attention (attn_implementation)",
    "train.checkpoint_when_needed": "Automatic gradient checkpointing",
    "train.dataloader_num_workers": "Data loader workers",
    "train.padding_free": "Padding-free batches (padding_free)",
    "train.fused_passes": "Fused passes",
    "train.torch_compile": "Compile the layers (torch_compile)",
    "train.use_liger_kernel": "Liger kernels (use_liger_kernel)",
    "model.trust_remote_code": "Use the model's own code (trust_remote_code)",
    "data.source": "Dataset",
    "data.config": "Configuration",
    "data.data_dir": "Folder",
    "data.streaming": "Read row by row (streaming)",
    "data.mix": "Mix in other datasets",
    "data.skip_rows": "Skip",
    "data.invalid_rows": "Invalid rows",
    "data.holdout_rows": "Validation rows (count)",
    "data.holdout_column": "Validation flag column",
    "data.holdout_source": "Separate validation set",
    "data.train_on": "Compute loss on",
    "data.split_turns": "One example per reply",
    "data.special_tokens_in_text": "Special tokens in text",
    "data.holdout": "Validation split",
    "data.eval_split": "Split for evaluation",
    "data.max_rows": "Row limit",
    "model.quantization": "Base model precision",
    "model.double_quantization": "Scales in 8 bits (double_quantization)",
    "model.adapter": "Continue from an adapter",
    "r": "Rank (r)",
    "lora_alpha": "Alpha (lora_alpha)",
    "lora_dropout": "Dropout",
    "use_rslora": "Rank-stabilised scale (rsLoRA)",
    "use_dora": "DoRA",
    "init_lora_weights": "Initialisation (init_lora_weights)",
    "loraplus_lr_ratio": "LoRA+ (loraplus_lr_ratio)",
    "init_r": "Initial rank (init_r)",
    "target_r": "Final rank (target_r)",
    "num_virtual_tokens": "Virtual tokens",
    "prompt_tuning_init": "Initialisation",
    "prompt_tuning_init_text": "Initial text",
    "encoder_hidden_size": "Hidden size",
    "encoder_reparameterization_type": "Encoder type",
    "encoder_num_layers": "Encoder layers",
    "encoder_dropout": "Encoder dropout",
    "oft_block_size": "Block size",
    "boft_block_size": "Block size",
    "boft_n_butterfly_factor": "Sparse rotations",
    "num_trainable_layers": "Last blocks to train",
    "coft": "Constrained (COFT)",
    "train.num_train_epochs": "Epochs",
    "train.per_device_train_batch_size": "Batch size",
    "train.per_device_eval_batch_size": "Batch size for validation",
    "train.lr_scheduler_type": "Learning rate schedule",
    "train.adam_beta1": "Adam beta1",
    "train.adam_beta2": "Adam beta2",
    "train.max_grad_norm": "Gradient clipping (max_grad_norm)",
    "train.optim": "Optimizer",
    "train.decay_share": "Decay fraction (WSD)",
    "train.neftune_noise_alpha": "NEFTune noise",
    "train.label_smoothing_factor": "Label smoothing",
    "train.early_stopping_patience": "Stop early after",
    "train.keep_best": "Keep the best weights",
    "train.eval_steps": "Validate every",
    "train.save_steps": "Checkpoint every",
    "train.save_minutes": "Checkpoint after",
    "train.logging_steps": "Log every",
    "train.save_total_limit": "Checkpoints kept",
    "train.sample_prompts": "Sample prompts (one per line)",
    "train.sample_count": "Sample answers: held-out rows",
    "train.sample_tokens": "Sample answers: max new tokens",
    "train.memory_limit_gb": "Memory limit",
}
CHOICES = {
    "model.task": [("Text generation (chat, instructions, code)", "causal_lm"), ("Text classification", "seq_cls")],
    "model.quantization": [
        ("Unchanged", "none"),
        ("4 bits, NF4 (QLoRA)", "nf4"),
        ("4 bits, FP4", "fp4"),
        ("8 bits", "int8"),
    ],
    "data.invalid_rows": [("Ask", "ask"), ("Skip", "drop"), ("Stop", "stop")],
    "data.train_on": [("All assistant turns", "assistant"), ("The last assistant turn", "last"), ("Everything", "all")],
}
_SMALLEST_FACTOR_STEP = 1e-6  # of a field that goes by factors, should the page's script not be there
METHOD_TITLES = [(method.title, kind) for kind, method in METHODS.items()]


def label(path: str) -> str:
    """What a person reads above a field."""
    name = path.rsplit(".", 1)[-1]
    return LABELS.get(path) or LABELS.get(name) or name.replace("_", " ").capitalize()


def declared(path: str) -> FieldInfo:
    """The declaration of a field by its path in the form, where a method's fields have its kind in between:
    ``method.lora.r``."""
    section, *kind, key = path.split(".")
    field = METHODS[kind[0]].model_fields[key] if kind else field_at([section, key])
    assert field is not None, path
    return field


def _component(path: str, field: FieldInfo, value: Any) -> gr.components.Component:
    """The control for one field, by its type."""
    extra = field.json_schema_extra or {}
    unit = extra.get("unit")
    options: dict[str, Any] = {
        "label": f"{label(path)} ({unit})" if unit and unit not in label(path).lower() else label(path),
        "info": f"{field.description} [Source]({extra['link']})" if extra.get("link") else field.description,
        "elem_id": path.replace(".", "-"),
        "interactive": True,
    }
    kinds = _kinds(field.annotation)
    if path in CHOICES or get_origin(field.annotation) is Literal:
        choices = CHOICES.get(path) or list(get_args(field.annotation))
        return gr.Dropdown(choices, value=value, filterable=False, **options)
    if kinds == {bool}:
        return gr.Checkbox(value=value, **options)
    if kinds == {int}:
        return gr.Number(value=value, precision=0, step=step_of(field), **options)
    if kinds <= {int, float}:
        step = step_of(field)
        return gr.Number(value=value, step=_SMALLEST_FACTOR_STEP if step == "factor" else step, **options)
    lines = 3 if _is_sources(field) or extra.get("lines") else 1
    return gr.Textbox(value=_shown(value, field), lines=lines, max_lines=max(lines, 12 if lines > 1 else 1), **options)


def _is_sources(field: FieldInfo) -> bool:
    """Whether a field is a list of sources, which a person writes as in a recipe."""
    return get_args(field.annotation) == (MixSpec,)


def _kinds(annotation: Any) -> set[type]:
    """The plain types in an annotation: ``str | None`` has ``str``."""
    if get_origin(annotation) in (Union, types.UnionType):
        return {get_origin(a) or a for a in get_args(annotation)} - {type(None)}
    return {get_origin(annotation) or annotation}


def _shown(value: Any, field: FieldInfo) -> Any:
    if isinstance(value, list) and (field.json_schema_extra or {}).get("lines"):
        return "\n".join(text.replace("\\", "\\\\").replace("\n", "\\n") for text in value)
    if isinstance(value, list) and any(isinstance(item, Section) for item in value):
        return yaml.safe_dump([item.model_dump(exclude_defaults=True) for item in value], sort_keys=False)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return json.dumps(value)
    return "" if value is None else value


class Form:
    """Components by the recipe's paths (``train.learning_rate``): from a recipe, and back into one."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.fields: dict[str, gr.components.Component] = {}

    def add(self, path: str, **changes: Any) -> gr.components.Component:
        """Build the component of a field, inside the current Gradio context."""
        assert path not in self.fields, f"{path} would be in the form twice"
        field = declared(path)
        component = _component(path, field, self._value(self.recipe, path, field))
        for name, value in changes.items():
            setattr(component, name, value)
        self.fields[path] = component
        return component

    def put(self, path: str, component: gr.components.Component) -> gr.components.Component:
        """Use a component of your own for a field."""
        self.fields[path] = component
        return component

    def section(self, name: str, *, advanced: bool, skip: Iterable[str] = ()) -> int:
        """Build the plain, or the advanced, fields of a section (``train``, ``method.lora``) that are not in the form
        yet; returns how many."""
        section, *kind = name.split(".")
        made = 0
        for key, field in (METHODS[kind[0]] if kind else SECTIONS[section]).model_fields.items():
            path = f"{name}.{key}"
            folded = bool((field.json_schema_extra or {}).get("advanced"))
            if folded is advanced and path not in self.fields and key not in ("kind", *skip):
                self.add(path)
                made += 1
        return made

    @staticmethod
    def _value(recipe: Recipe, path: str, field: FieldInfo) -> Any:
        section, *kind, key = path.split(".")
        other = kind and recipe.method.kind != kind[0]
        value = field.default if other else getattr(getattr(recipe, section), key)
        return _shown(value, field) if isinstance(value, (list, dict)) else value

    def components(self) -> set[gr.components.Component]:
        return set(self.fields.values())

    def number_fields(self) -> dict[str, dict[str, Any]]:
        """What the page's script knows of the fields for numbers, by ``elem_id``: ``min`` and ``max``, and ``factor``
        where an arrow key goes to the next of 1, 2, 5, 10. (Gradio's own bounds would hide what was entered.)"""
        found = {}
        for path, component in self.fields.items():
            if isinstance(component, gr.Number):
                limits, step = limits_of(declared(path)), step_of(declared(path))
                found[component.elem_id] = {
                    "min": limits.get("ge", limits.get("gt")),
                    "max": limits.get("le", limits.get("lt")),
                    "factor": step == "factor",
                }
        return found

    def read(self, values: dict[Any, Any]) -> Recipe:
        """The recipe that the components describe; its ``problems()`` say what was entered wrong."""
        chosen = values.get(self.fields["method"]) or "lora"
        tree: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "method": {"kind": chosen}, "train": {}}
        for path, component in self.fields.items():
            section, *kind, key = path.split(".") if path != "method" else ("method", "", "kind")
            if path != "method" and (not kind or kind[0] == chosen):
                tree[section][key] = _typed(declared(path), values.get(component))
        if chosen in WHOLE:  # the choice is hidden then, and there is no frozen base
            tree["model"]["quantization"] = "none"
        return Recipe.parse({"name": "studio", **tree}, where="The form")

    def show(self, recipe: Recipe) -> dict[gr.components.Component, Any]:
        """Updates that put a recipe into the components."""
        updates = {}
        for path, component in self.fields.items():
            if path == "method":
                updates[component] = gr.update(value=recipe.method.kind)
                continue
            kind = path.split(".")[1:-1]
            if kind and kind[0] != recipe.method.kind:
                continue
            field = declared(path)
            value = self._value(recipe, path, field)
            updates[component] = gr.update(value="" if value is None else value)
        return updates


def _typed(field: FieldInfo, value: Any) -> Any:
    """A component's value as the recipe's type takes it: empty text is None or the default, lists and maps are read."""
    kinds = _kinds(field.annotation)
    if value is None or value == "":
        return None if field.default is None else field.default if kinds & {str, dict, list} else value
    if isinstance(value, str) and _is_sources(field):
        try:
            return read_yaml(value, "The list of sources")
        except StudioError:
            return value
    if isinstance(value, str) and dict in kinds:
        try:
            return json.loads(value)
        except ValueError:
            return value
    if isinstance(value, str) and (field.json_schema_extra or {}).get("lines"):
        unescaped = (re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], line) for line in value.split("\n"))
        return [line.strip() for line in unescaped if line.strip()]
    if isinstance(value, str) and list in kinds and ("," in value or str not in kinds):
        return [name.strip() for name in value.split(",") if name.strip()]
    if isinstance(value, str) and kinds <= {int, float}:
        return value.strip()
    return value.strip() if isinstance(value, str) and "\n" not in value.strip() else value  # a template is kept whole
