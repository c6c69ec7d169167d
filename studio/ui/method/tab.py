"""The Method tab: what is trained and how, derived from the recipe's types, with its cost beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.models import store
from studio.recipe import METHODS, Recipe
from studio.recipe.methods import WHOLE
from studio.recipe.presets import Preset, changes_between, presets
from studio.ui import views
from studio.ui.context import AppContext
from studio.ui.examinations import StillExamining
from studio.ui.form import METHOD_TITLES, Form, label
from studio.ui.wiring import QUIET

_SURVEY_SECONDS = 5.0  # that the estimate waits for the rows
_FOUR_BITS = ("nf4", "fp4")  # of which the scales can be quantised, too


@dataclass
class MethodTab:
    presets: dict[str, gr.Button]
    changed: gr.HTML
    preset: gr.Textbox  # what the preset that was applied last has changed (studio.recipe.presets.write_changes)
    about: gr.HTML
    quantization: gr.Column
    groups: dict[str, gr.Column]
    cost: gr.HTML


def build(form: Form) -> MethodTab:
    kind = form.recipe.method.kind
    with gr.Column(elem_classes="card"):
        gr.HTML("<h3>Method</h3>")
        form.put(
            "method",
            gr.Radio(METHOD_TITLES, value=kind, label="Fine-tuning method", elem_id="method", interactive=True),
        )
        about = gr.HTML(explain(kind), elem_id="method-about")
        groups = {}
        for name in METHODS:
            with gr.Column(visible=name == kind, elem_id=f"method-{name}") as groups[name]:
                with gr.Row(elem_classes="fields") as plain:
                    plain.visible = form.section(f"method.{name}", advanced=False) > 0
                with (
                    gr.Accordion("Advanced settings of the method", open=False) as folded,
                    gr.Row(elem_classes="fields"),
                ):
                    folded.visible = form.section(f"method.{name}", advanced=True) > 0
        with gr.Column(visible=kind not in WHOLE) as quantization, gr.Row(elem_classes="fields"):
            form.add("model.quantization")
            form.add("model.double_quantization", visible=form.recipe.model.quantization in _FOUR_BITS)
            form.add("model.adapter")
    with gr.Column(elem_classes="card"):
        gr.HTML("<h3>Training</h3>")
        with gr.Row(elem_classes="presets"):
            gr.HTML('<span class="note">Settings for</span>')
            buttons = {
                name: gr.Button(preset.title, size="sm", min_width=120, scale=0, elem_id=f"preset-{name}")
                for name, preset in presets().items()
            }
        changed = gr.HTML(elem_id="preset-changed")
        applied = gr.Textbox("", visible="hidden", elem_id="preset-applied")
        with gr.Row():
            for name in ("num_train_epochs", "learning_rate", "per_device_train_batch_size"):
                form.add(f"train.{name}")
        with gr.Row():
            for name in ("gradient_accumulation_steps", "max_steps", "seed"):
                form.add(f"train.{name}")
        with gr.Row():
            for name in ("eval_steps", "save_steps", "save_minutes"):
                form.add(f"train.{name}")
        with gr.Accordion("Advanced", open=False), gr.Row(elem_classes="fields"):
            form.section("train", advanced=True)
    with gr.Column(elem_classes="card"):
        gr.HTML("<h3>Estimated memory</h3>")
        cost = gr.HTML(elem_id="cost")
    bits, scales = form.fields["model.quantization"], form.fields["model.double_quantization"]
    bits.change(lambda chosen: gr.update(visible=chosen in _FOUR_BITS), bits, scales, **QUIET)
    return MethodTab(buttons, changed, applied, about, quantization, groups, cost)


def explain(kind: str) -> str:
    """The chosen method in two sentences, with its source and a learning rate to start from."""
    method = METHODS[kind]
    link = (method.model_fields["kind"].json_schema_extra or {}).get("link")
    source = f' <a href="{link}" target="_blank" rel="noreferrer">Source</a>' if link else ""
    text = " ".join((method.__doc__ or "").split())
    low, high = method.usual_rates()
    rate = f"Start with a learning rate of {method.suggested:g}; {low:g} to {high:g} is usual."
    return f'<p class="note">{views.escape(text)} {rate}{source}</p>'


def chosen(tab: MethodTab, kind: str) -> dict[gr.components.Component, Any]:
    """Updates that show a method's own fields and hide the others'."""
    shown = {group: gr.update(visible=name == kind) for name, group in tab.groups.items()}
    return {tab.about: explain(kind), tab.quantization: gr.update(visible=kind not in WHOLE), **shown}


def suggested_rate(kind: str, now: Any) -> Any:
    """The learning rate to start a method from, unless the person has chosen one of their own."""
    usual = {method.suggested for method in METHODS.values()}
    return METHODS[kind].suggested if now in usual else gr.skip()


def changes_html(preset: Preset, before: Recipe, after: Recipe) -> str:
    """What a preset has changed, field by field; what goes back because another preset had changed it, too."""
    said = [(label(path), show_value(old), show_value(new)) for path, old, new in changes_between(before, after)]
    rows = "".join("<li>{}: {} → <b>{}</b></li>".format(*map(views.escape, line)) for line in said)
    text = f"<ul>{rows}</ul>" if rows else " Nothing to change."
    return f'<div class="message calm"><b>{views.escape(preset.title)}.</b> {views.escape(preset.about)}{text}</div>'


def show_value(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def cost(context: AppContext, recipe: Recipe, session: str = "") -> str:
    """The memory estimate as a bar.

    Args:
        session: of the browser that shows it.
    """
    try:
        folder = store.local_folder(recipe.model)
        try:
            seen = context.known.survey(recipe, session, _SURVEY_SECONDS)
        except StillExamining:  # rows of the greatest length are assumed
            seen = None
        numbers, fits = context.known.numbers(recipe, folder, seen), context.known.largest(recipe, folder, seen)
    except StudioError:  # the panel says what is wrong
        numbers, fits = None, {}
    if numbers is None:
        return views.empty("No estimate yet", "It needs the model's files and sound settings.")
    return views.memory_bar(numbers.memory_bytes, context.machine) + _room(recipe, fits)


def _room(recipe: Recipe, fits: dict[str, int | None]) -> str:
    """How far the batch or the rows could grow before the memory is full."""
    if not fits:
        return ""
    batch, length = fits["batch"], fits["length"]
    rows = f"up to {batch:,} rows at once" if batch else "not even one row"
    tokens = f"rows of up to {length:,} tokens" if length else "no rows"
    size = recipe.train.per_device_train_batch_size
    return f'<p class="note">As long as these rows are, {rows} would fit; and in batches of {size}, {tokens}.</p>'
