"""The Data tab: which dataset, how its rows are read, and the rows as the trainer will see them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.data.formats import SHAPES
from studio.data.sources import builtin_names
from studio.errors import StudioError
from studio.recipe import Recipe
from studio.ui.context import AppContext
from studio.ui.data import report_panel, rows_panel, template_panel
from studio.ui.data.preview_process import PROCESS_CODES
from studio.ui.data.uploads import delete_upload, is_upload, keep_uploads, kept_datasets, mark_unreadable
from studio.ui.form import Form
from studio.ui.wiring import QUIET, session_of, told

MAPPED_PARTS = max(len(shape.required) + len(shape.optional) for shape in SHAPES.values())  # dropdowns
_FROM_THE_TOP = (1, "", "file", "")  # the row browser's controls: first, flag, order, text


@dataclass
class DataTab:
    upload: gr.UploadButton
    delete: gr.Button
    gone: gr.Textbox  # the upload that a person has just confirmed to delete
    found: gr.HTML
    columns: list[gr.Dropdown]
    parts: gr.Textbox
    template: template_panel.TemplatePanel
    rows: rows_panel.RowsPanel
    report: report_panel.ReportPanel


def build(form: Form) -> DataTab:
    with gr.Column(elem_classes="card"):
        gr.HTML("<h3>Dataset</h3>")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5):
                form.put(
                    "data.source",
                    gr.Dropdown(
                        known_datasets(form.recipe.data.source),
                        value=form.recipe.data.source,
                        allow_custom_value=True,
                        label="Dataset",
                        info="Built in, a Hugging Face Hub id, or the path of a file or a folder of files.",
                        elem_id="data-source",
                        interactive=True,
                    ),
                )
            with gr.Column(scale=1, min_width=150):
                upload = gr.UploadButton(
                    "Upload files", file_types=None, file_count="multiple", type="filepath", elem_id="upload"
                )
                delete = gr.Button("Delete this upload", visible=False, elem_id="delete-upload")
                gone = gr.Textbox("", visible="hidden", elem_id="deleted-upload")
        with gr.Row():
            form.add("data.format")
            form.add("data.train_on", visible=form.recipe.model.task != "seq_cls")
            form.add("data.max_length")
            form.add("data.holdout")
        found = gr.HTML(elem_id="found")
        with gr.Row():
            columns = [
                gr.Dropdown([], label="Column", visible=False, interactive=True, elem_id=f"column-{i}", min_width=150)
                for i in range(MAPPED_PARTS)
            ]
        parts = gr.Textbox("[]", visible="hidden", elem_id="parts")
        form.put(
            "data.columns", gr.Textbox(json.dumps(form.recipe.data.columns), visible="hidden", elem_id="data-columns")
        )
        template = template_panel.build(form)
        with gr.Accordion("Row selection and validation split", open=False):
            with gr.Row():
                for name in ("split", "eval_split", "skip_rows", "max_rows"):
                    form.add(f"data.{name}")
            with gr.Row():
                for name in ("holdout_rows", "holdout_column", "holdout_source", "invalid_rows"):
                    form.add(f"data.{name}")
            with gr.Row():
                form.add("data.split_turns")
                form.add("data.special_tokens_in_text")
            form.add("data.mix")
        with gr.Accordion("A dataset from the Hub", open=False), gr.Row():
            for name in ("config", "data_dir", "revision", "streaming"):
                form.add(f"data.{name}")
    return DataTab(upload, delete, gone, found, columns, parts, template, rows_panel.build(), report_panel.build())


def known_datasets(chosen: str) -> list[str]:
    """The datasets to choose from: built in, uploaded before, and cleaned before."""
    return list(dict.fromkeys([*builtin_names(), *kept_datasets(chosen), chosen]))


def wire(context: AppContext, form: Form, tab: DataTab, page: gr.Tab) -> dict[str, Any]:
    """Connect the tab; returns what a handler of others needs to show the rows anew (``fn``, ``inputs``, ...)."""
    fields = form.fields
    refresh = rows_panel.wire(context, form, tab.rows, [tab.found, tab.parts, *tab.columns])
    template_panel.wire(context, form, tab.template)

    # what changes the rows shows in the rows; another shape: the columns chosen for the old one do not hold
    unshaping = (
        "holdout",
        "holdout_rows",
        "holdout_source",
        "invalid_rows",
        "eval_split",
        "source",
        "format",
        "columns",
    )
    shaping = [f for p, f in fields.items() if p.startswith("data.") and p.removeprefix("data.") not in unshaping]
    gr.on([field.change for field in shaping], trigger_mode="always_last", **refresh)
    anew = [fields["data.columns"], *tab.rows.chosen()]
    for path in ("data.source", "data.format"):
        fields[path].input(lambda: ("{}", *_FROM_THE_TOP), None, anew, **QUIET).then(**refresh)
    gr.on(
        [column.input for column in tab.columns],
        lambda parts, *values: chosen_columns(parts, list(values)),
        [tab.parts, *tab.columns],
        fields["data.columns"],
        **QUIET,
    ).then(**refresh)

    def uploaded(paths: list[str], request: gr.Request) -> tuple[Any, ...]:
        kept = keep_uploads(paths)
        try:
            context.viewer.readable(Recipe.parse({"data": {"source": kept}}), session_of(request))
        except StudioError as error:  # it is chosen once, so that the page says what is wrong with it
            if error.code not in PROCESS_CODES:  # nothing is known about the file
                mark_unreadable(kept)
        return gr.update(choices=known_datasets(kept), value=kept), "auto", "{}", *_FROM_THE_TOP

    fields["model.task"].change(  # a text to be put into a class is read as it is, without template and turns
        lambda task: [gr.update(visible=task != "seq_cls")] * 2,
        fields["model.task"],
        [fields["data.train_on"], tab.template.whole],
        **QUIET,
    )

    def deleted(source: str | None) -> tuple[Any, ...]:
        if not source:  # the question was answered with no
            return tuple([gr.skip()] * (3 + len(_FROM_THE_TOP)))
        delete_upload(source, context.index.look())
        first = builtin_names()[0]
        return gr.update(choices=known_datasets(first), value=first), "auto", "{}", *_FROM_THE_TOP

    source = [fields["data.source"], fields["data.format"], *anew]
    fields["data.source"].change(
        lambda chosen: gr.update(visible=is_upload(chosen)), fields["data.source"], tab.delete, **QUIET
    )
    confirm = "path => [confirm(`Delete ${path.split('/').at(-1)} from the workspace?`) ? path : '']"
    tab.delete.click(None, fields["data.source"], tab.gone, js=confirm).then(told(deleted), tab.gone, source, **QUIET)
    tab.upload.upload(told(uploaded), tab.upload, source, api_visibility="private").then(**refresh)

    look, check = report_panel.wire(context, form, tab.report)
    page.select(**refresh)
    page.select(**look)
    seen = [*(p for p in fields if p.startswith(("data.", "model."))), "train.per_device_train_batch_size"]
    gr.on([fields[p].change for p in seen], trigger_mode="always_last", **look)

    def opened(event: gr.EventData) -> tuple[int, str, str, str]:
        """The rows of a finding that was clicked, or the one row."""
        row = str(event._data.get("row") or "")
        return (int(row), "", "file", "") if row.isdigit() else (1, str(event._data.get("flag") or ""), "file", "")

    def flags(values: dict) -> Any:
        chosen = values[tab.rows.flag] or ""
        return gr.update(choices=rows_panel.flag_choices(form.read(values), chosen))

    tab.report.result.change(flags, {*form.components(), tab.rows.flag}, tab.rows.flag, **QUIET)
    tab.report.result.select(opened, None, tab.rows.chosen(), **QUIET).then(**refresh)
    tab.report.result.input(_limit, None, fields["data.max_length"], **QUIET).then(**check)
    tab.report.use.click(
        lambda path: (gr.update(choices=known_datasets(path), value=path), "auto", "{}", *_FROM_THE_TOP, "", 0, 0),
        tab.report.cleaned,
        [*source, *(fields[f"data.{name}"] for name in ("mix", "skip_rows", "max_rows"))],
        **QUIET,
    ).then(**refresh)
    return refresh


def _limit(event: gr.EventData) -> Any:
    """The max_length that the line in the histogram was moved to."""
    value = event._data.get("max_length")
    return max(8, int(value)) if isinstance(value, (int, float)) else gr.skip()


def chosen_columns(parts: str, values: list[str | None]) -> str:
    """The mapping that the dropdowns say, as the JSON of ``data.columns``; a part without a column is left out."""
    names = json.loads(parts or "[]")
    return json.dumps({part: value or "" for part, value in zip(names, values, strict=False)})
