"""The form, derived from the recipe's types: one component a field, with its label, help, unit and default."""

from __future__ import annotations

import json
import types
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin

import gradio as gr
import yaml
from pydantic.fields import FieldInfo

from studio import recipe as recipes
from studio.recipe import Recipe

LABELS = {
    "model.id": "Base model",
    "model.dtype": "Number format (dtype)",
    "model.trust_remote_code": "Run the model's own code (trust_remote_code)",
    "data.source": "Dataset",
    "data.config": "Configuration",
    "data.data_dir": "Folder",
    "data.streaming": "Read row by row (streaming)",
    "data.mix": "More sources",
    "data.skip_rows": "Skip",
    "data.invalid_rows": "Rows that cannot be trained on",
    "data.holdout_rows": "Hold out a number",
    "data.holdout_column": "Hold out by a column",
    "data.holdout_source": "Hold out a second source",
    "data.train_on": "Train on",
    "data.holdout": "Held out for validation",
    "data.eval_split": "Split for evaluation",
    "data.max_rows": "At most so many rows",
    "method.r": "Rank (r)",
    "method.lora_alpha": "Alpha (lora_alpha)",
    "method.lora_dropout": "Dropout",
    "method.use_rslora": "Rank-stabilised scale (rsLoRA)",
    "train.num_train_epochs": "Epochs",
    "train.per_device_train_batch_size": "Batch size",
    "train.per_device_eval_batch_size": "Batch size for validation",
    "train.lr_scheduler_type": "Learning rate schedule",
    "train.max_grad_norm": "Gradient clipping (max_grad_norm)",
    "train.optim": "Optimizer",
    "train.eval_steps": "Validate every",
    "train.save_steps": "Checkpoint every",
    "train.logging_steps": "Log every",
    "train.save_total_limit": "Checkpoints kept",
}
CHOICES = {
    "data.invalid_rows": [("Ask before a launch", "ask"), ("Drop them", "drop"), ("Stop at them", "stop")],
    "data.train_on": [("All assistant turns", "assistant"), ("The last assistant turn", "last"), ("Everything", "all")],
}
METHOD_CHOICES = {
    "lora": ("lora", "none"),
    "qlora-nf4": ("lora", "nf4"),
    "qlora-int8": ("lora", "int8"),
    "full": ("full", "none"),
}
METHOD_TITLES = [
    ("LoRA", "lora"),
    ("QLoRA, 4 bits", "qlora-nf4"),
    ("QLoRA, 8 bits", "qlora-int8"),
    ("Full fine-tuning", "full"),
]


def label(path: str) -> str:
    """What a person reads above a field."""
    return LABELS.get(path) or path.rsplit(".", 1)[-1].replace("_", " ").capitalize()


def _component(path: str, field: FieldInfo, value: Any) -> gr.components.Component:
    """The control for one field, by its type."""
    extra = field.json_schema_extra or {}
    unit = extra.get("unit")
    options: dict[str, Any] = {
        "label": f"{label(path)} ({unit})" if unit and unit not in label(path).lower() else label(path),
        "info": field.description,
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
        return gr.Number(value=value, precision=0, **options)
    if kinds <= {int, float}:
        return gr.Number(value=value, **options)
    lines = 3 if _is_sources(field) else 1
    return gr.Textbox(value=_shown(value), lines=lines, max_lines=max(lines, 12 if lines > 1 else 1), **options)


def _is_sources(field: FieldInfo) -> bool:
    """Whether a field is a list of sources, which a person writes as in a recipe."""
    return get_args(field.annotation) == (recipes.MixSpec,)


def _kinds(annotation: Any) -> set[type]:
    """The plain types in an annotation: ``str | None`` has ``str``."""
    if get_origin(annotation) in (Union, types.UnionType):
        return {get_origin(a) or a for a in get_args(annotation)} - {type(None)}
    return {get_origin(annotation) or annotation}


def _shown(value: Any) -> Any:
    if isinstance(value, list) and any(isinstance(item, recipes.Section) for item in value):
        return yaml.safe_dump([item.model_dump(exclude_defaults=True) for item in value], sort_keys=False)
    if isinstance(value, list):
        return ", ".join(value)
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
        field = recipes.field_at(path.split("."))
        assert field is not None, path
        component = _component(path, field, self._value(self.recipe, path, field))
        for name, value in changes.items():
            setattr(component, name, value)
        self.fields[path] = component
        return component

    def put(self, path: str, component: gr.components.Component) -> gr.components.Component:
        """Use a component of your own for a field."""
        self.fields[path] = component
        return component

    def section(self, name: str, *, advanced: bool, skip: Iterable[str] = ()) -> None:
        """Build the plain, or the advanced, fields of a section that are not in the form yet."""
        sections = recipes.METHODS.values() if name == "method" else [recipes.SECTIONS[name]]
        for section in sections:
            for key, field in section.model_fields.items():
                path = f"{name}.{key}"
                folded = bool((field.json_schema_extra or {}).get("advanced"))
                if folded is advanced and path not in self.fields and key not in ("kind", *skip):
                    self.add(path)

    @staticmethod
    def _value(recipe: Recipe, path: str, field: FieldInfo) -> Any:
        section, key = path.split(".")
        value = getattr(getattr(recipe, section), key, field.default)
        return _shown(value) if isinstance(value, (list, dict)) else value

    def components(self) -> set[gr.components.Component]:
        return set(self.fields.values())

    def read(self, values: dict[Any, Any]) -> Recipe:
        """The recipe that the components describe; its ``problems()`` say what was entered wrong."""
        choice = values.get(self.fields["method"]) or "lora"
        kind, quantization = METHOD_CHOICES[choice]
        tree: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "method": {"kind": kind}, "train": {}}
        for path, component in self.fields.items():
            if path == "method":
                continue
            section, key = path.split(".")
            if section == "method" and key not in recipes.METHODS[kind].model_fields:
                continue
            field = recipes.field_at([section, key])
            tree[section][key] = _typed(field, values.get(component))
        tree["model"]["quantization"] = quantization
        return Recipe.parse({"name": "studio", **tree}, where="The form")

    def show(self, recipe: Recipe) -> dict[gr.components.Component, Any]:
        """Updates that put a recipe into the components."""
        updates = {}
        for path, component in self.fields.items():
            if path == "method":
                wanted = (recipe.method.kind, recipe.model.quantization)
                value = next((choice for choice, pair in METHOD_CHOICES.items() if pair == wanted), recipe.method.kind)
                updates[component] = gr.update(value=value)
                continue
            field = recipes.field_at(path.split("."))
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
            return yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):
            return value
    if isinstance(value, str) and dict in kinds:
        try:
            return json.loads(value)
        except ValueError:
            return value
    if isinstance(value, str) and list in kinds and "," in value:
        return [name.strip() for name in value.split(",") if name.strip()]
    if isinstance(value, str) and kinds <= {int, float}:
        return value.strip()
    return value.strip() if isinstance(value, str) and "\n" not in value.strip() else value  # a template is kept whole
