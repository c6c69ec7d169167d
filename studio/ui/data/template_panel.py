"""The chat template of the Data tab: a choice, and an editor that shows at once what it writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.recipe import is_inline
from studio.training.row_preview import Wanted
from studio.ui import views
from studio.ui.context import AppContext
from studio.ui.data import row_html
from studio.ui.data.preview_process import Superseded
from studio.ui.form import Form
from studio.ui.wiring import QUEUED, QUIET, session_of, told

OWN = "own"  # the choice that stands for a template written in the recipe
CHOICES = [
    ("The model's own", "auto"),
    ("ChatML", "chatml"),
    ("Llama 3", "llama3"),
    ("Gemma", "gemma"),
    ("Mistral", "mistral"),
    ("Phi", "phi"),
    ("Alpaca", "alpaca"),
    ("Plain text", "plain"),
    ("Written below", OWN),
]
_NOTHING = views.empty("No preview yet", "Press Load current template, and change it.")


@dataclass
class TemplatePanel:
    whole: gr.Accordion
    choice: gr.Dropdown
    editor: gr.Code
    start: gr.Button
    use: gr.Button
    rendered: gr.HTML


def build(form: Form) -> TemplatePanel:
    chosen = form.recipe.data.chat_template
    chats = form.recipe.model.task != "seq_cls"
    with gr.Accordion("Chat template", open=False, visible=chats, elem_id="template") as whole:
        with gr.Row():
            choice = gr.Dropdown(
                CHOICES,
                value=_choice(chosen),
                allow_custom_value=True,
                label="Chat template",
                info="How a conversation is written for the model: a choice, or the path of a .jinja file.",
                elem_id="template-choice",
                interactive=True,
            )
            form.add("data.system_prompt")
            form.add("data.reasoning")
        form.put("data.chat_template", gr.Textbox(chosen, visible="hidden", elem_id="data-chat_template"))
        editor = gr.Code(
            chosen if is_inline(chosen) else "",
            language="jinja2",
            label="Template (Jinja)",
            lines=8,
            max_lines=24,
            interactive=True,
            elem_id="template-editor",
        )
        with gr.Row():
            start = gr.Button("Load current template", min_width=290, scale=0, elem_id="template-start")
            use = gr.Button("Apply template", min_width=210, scale=0, elem_id="template-use")
        rendered = gr.HTML(_NOTHING, elem_id="template-rendered")
    return TemplatePanel(whole, choice, editor, start, use, rendered)


def _choice(template: str) -> str:
    return OWN if is_inline(template) else template


def wire(context: AppContext, form: Form, panel: TemplatePanel) -> None:
    """Connect the choice and the editor with the recipe's field."""
    field = form.fields["data.chat_template"]

    def chosen(choice: str | None, written: str) -> Any:
        if choice == OWN:
            return written if is_inline(written or "") else gr.skip()
        return (choice or "auto").strip() or "auto"

    panel.choice.input(chosen, [panel.choice, panel.editor], field, **QUIET)
    field.change(_choice, field, panel.choice, **QUIET)

    def current(values: dict, request: gr.Request) -> str:
        return context.viewer.template(form.read(values), session_of(request))

    panel.start.click(told(current), form.components(), panel.editor, api_visibility="private")

    def use(written: str) -> str:
        if not is_inline(written or ""):
            raise StudioError("Nothing that could be a template is written.", "Press Load current template.")
        return written

    panel.use.click(told(use), panel.editor, field, api_visibility="private")

    def render(values: dict, request: gr.Request) -> Iterator[str]:
        written = values[panel.editor] or ""
        if not written.strip():
            yield _NOTHING
            return
        yield views.working("Rendering the first row")
        yield rendered(context, form, values, written, session_of(request))

    panel.editor.change(
        render, {*form.components(), panel.editor}, panel.rendered, trigger_mode="always_last", **QUEUED
    )


def rendered(context: AppContext, form: Form, values: dict, written: str, session: str = "") -> Any:
    """The first row of the dataset as a template that is being written would write it, or what is wrong with it."""
    if not is_inline(written):
        return views.message("warn", "It prints nothing of the messages.", "Use {{ message['content'] }} in a loop.")
    recipe = form.read(values)
    recipe.data.chat_template = written
    try:
        seen = context.viewer.view(Wanted(recipe, count=1), session)
    except Superseded:  # the answer to the newer request is on its way
        return gr.skip()
    except StudioError as error:
        return views.problem(error)
    return row_html.html(seen.rows, "This template writes row 1 so")
