"""The Method tab: what is trained and how, derived from the recipe's types, with its cost beside it."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from studio.errors import StudioError
from studio.models import store
from studio.recipe import METHODS, Recipe
from studio.ui import views
from studio.ui.desk import Desk
from studio.ui.form import METHOD_CHOICES, METHOD_TITLES, Form


@dataclass
class MethodTab:
    about: gr.HTML
    lora: list[gr.components.Component]
    cost: gr.HTML


def build(form: Form) -> MethodTab:
    recipe = form.recipe
    wanted = (recipe.method.kind, recipe.model.quantization)
    chosen = next((choice for choice, pair in METHOD_CHOICES.items() if pair == wanted), "lora")
    with gr.Column(elem_classes="card"):
        gr.HTML("<h3>Method</h3>")
        form.put(
            "method",
            gr.Radio(METHOD_TITLES, value=chosen, label="What is trained", elem_id="method", interactive=True),
        )
        about = gr.HTML(explain(chosen), elem_id="method-about")
        with gr.Row(visible=chosen != "full") as plain:
            form.section("method", advanced=False)
        with gr.Accordion("Advanced adapter settings", open=False, visible=chosen != "full") as folded, gr.Row():
            form.section("method", advanced=True)
    with gr.Column(elem_classes="card"):
        gr.HTML("<h3>Training</h3>")
        with gr.Row():
            for name in ("num_train_epochs", "learning_rate", "per_device_train_batch_size"):
                form.add(f"train.{name}")
        with gr.Row():
            for name in ("gradient_accumulation_steps", "max_steps", "seed"):
                form.add(f"train.{name}")
        with gr.Row():
            for name in ("eval_steps", "save_steps"):
                form.add(f"train.{name}")
        with gr.Accordion("Advanced", open=False), gr.Row():
            form.section("train", advanced=True)
    with gr.Column(elem_classes="card"):
        gr.HTML("<h3>Estimated memory</h3>")
        cost = gr.HTML(elem_id="cost")
    return MethodTab(about, [plain, folded], cost)


def explain(choice: str) -> str:
    """The chosen method in one or two sentences."""
    kind, quantization = METHOD_CHOICES[choice]
    text = " ".join((METHODS[kind].__doc__ or "").split())
    if quantization != "none":
        bits = "4" if quantization == "nf4" else "8"
        text += f" The frozen base is stored in {bits} bits, which saves memory and costs some speed."
    return f'<p class="note">{views.escape(text)}</p>'


def cost(desk: Desk, recipe: Recipe) -> str:
    """The memory estimate as a bar."""
    try:
        numbers = desk.numbers(recipe, store.local_folder(recipe.model), desk.survey(recipe))
    except StudioError:  # the panel says what is wrong
        numbers = None
    if numbers is None:
        return views.empty("No estimate yet", "It needs the model's files and sound settings.")
    return views.memory_bar(numbers.memory_bytes, desk.machine)
