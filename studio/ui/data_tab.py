"""The Data tab: which dataset, how its rows are read, and the rows as the trainer will see them."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from studio.data.files import kind_of
from studio.errors import StudioError
from studio.recipe import Recipe
from studio.ui import preview, report_panel, views
from studio.ui.desk import Desk
from studio.ui.form import Form
from studio.workspace import Workspace, safe_name

MAPPED_PARTS = 4  # dropdowns for the parts of a format


@dataclass
class DataTab:
    upload: gr.UploadButton
    found: gr.HTML
    columns: list[gr.Dropdown]
    parts: gr.Textbox
    rows: gr.HTML
    first: gr.Number
    before: gr.Button
    after: gr.Button
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
        with gr.Row():
            form.add("data.format")
            form.add("data.train_on")
            form.add("data.max_length")
            form.add("data.holdout")
        found = gr.HTML(elem_id="found")
        with gr.Row():
            columns = [
                gr.Dropdown([], label="Column", visible=False, interactive=True, elem_id=f"column-{i}")
                for i in range(MAPPED_PARTS)
            ]
        parts = gr.Textbox("[]", visible="hidden", elem_id="parts")
        form.put(
            "data.columns", gr.Textbox(json.dumps(form.recipe.data.columns), visible="hidden", elem_id="data-columns")
        )
        with gr.Accordion("Advanced", open=False), gr.Row():
            with gr.Column():
                form.add("data.chat_template")
                form.add("data.system_prompt")
                form.add("data.max_rows")
            with gr.Column():
                form.add("data.split")
                form.add("data.eval_split")
                form.add("data.config")
                form.add("data.revision")
    with gr.Column(elem_classes="card"):
        gr.HTML("<h3>The rows as the trainer will see them</h3>")
        with gr.Row(elem_classes="bottom"):
            first = gr.Number(
                1,
                label="From row",
                info="As numbered in the file.",
                minimum=1,
                precision=0,
                min_width=130,
                scale=0,
                interactive=True,
                elem_id="first-row",
            )
            before = gr.Button("Previous 20", min_width=110, scale=0, elem_id="rows-before")
            after = gr.Button("Next 20", min_width=110, scale=0, elem_id="rows-after")
        rows = gr.HTML(views.empty("No rows yet", "Choose a dataset or upload a file."), elem_id="rows")
    return DataTab(upload, found, columns, parts, rows, first, before, after, report_panel.build())


def known_datasets(chosen: str) -> list[str]:
    """The datasets to choose from: built in, and uploaded before."""
    from studio.data.sources import builtin_names

    uploads = Workspace.current().datasets / "uploads"
    files = sorted(str(p) for p in uploads.glob("*") if not p.name.startswith(".")) if uploads.exists() else []
    return list(dict.fromkeys([*builtin_names(), *files, chosen]))


def keep_uploads(paths: list[str]) -> str:
    """Copy uploaded files into the workspace, under safe names; the same files again are the same copy.

    Returns:
        The path of the copy; several files become a folder.

    Raises:
        StudioError: the disk is full or the workspace cannot be written.
    """
    sources = [Path(path) for path in paths]
    digests = [_digest(source) for source in sources]
    uploads = Workspace.current().folder("datasets/uploads")
    try:
        if len(sources) == 1:
            return str(_copy(sources[0], uploads / _name(sources[0], digests[0])))
        whole = hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
        stem = Path(safe_name(sources[0].name, "data")).stem
        folder = uploads / f"{stem}-and-{len(sources) - 1}-more-{whole[:8]}"
        aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
        if not folder.exists():
            try:
                aside.mkdir()
                for source, digest in zip(sources, digests, strict=True):
                    _copy(source, aside / _name(source, digest))
                aside.rename(folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)  # on a full disk some of the files would stay
        return str(folder)
    except OSError as error:
        raise StudioError(
            f"The file cannot be kept in the workspace: {error.strerror}.", "Free some disk space and try again."
        ) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _name(source: Path, digest: str) -> str:
    kind, packed = kind_of(source)
    stem = Path(safe_name(source.name, "data")).name.removesuffix(packed).removesuffix(kind)
    return f"{stem}-{digest[:8]}{kind}{packed}"


def _copy(source: Path, target: Path) -> Path:
    if not target.exists():
        aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            shutil.copyfile(source, aside)
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)  # on a full disk half a file would stay
    return target


def turned(first: float | None, rows: int) -> int:
    """The first row to show after so many rows forwards, or backwards if negative."""
    return max(1, int(first or 1) + rows)


def show(desk: Desk, recipe: Recipe, start: int = 1) -> tuple[str, str, list[dict], str]:
    """(what was found, the rows, an update for each column dropdown, the parts as JSON) for a recipe.

    Args:
        start: the number of the first row to show.
    """
    hidden = [gr.update(visible=False)] * MAPPED_PARTS
    refused = [p for p in recipe.problems() if p.field and p.field.startswith("data")]
    if refused:
        return (
            "".join(views.message("bad", p.what, p.fix) for p in refused),
            views.empty("No rows to show", "Mend what is marked above."),
            hidden,
            "[]",
        )
    try:
        tokenizer, notes = desk.tokenizer(recipe)
    except StudioError as error:
        return (
            views.message("warn", error.what, error.fix),
            views.empty("No rows to show yet", "They are shown as soon as the model is here."),
            hidden,
            "[]",
        )
    try:
        seen = preview.load(recipe, tokenizer, notes, start)
    except StudioError as error:
        return views.problem(error), views.empty("No rows to show", "Mend what is marked above."), hidden, "[]"
    rows = preview.html(seen)
    if not seen.rows:
        rows = views.empty(f"There is no row {start:,}", "Choose a smaller number: the file ends before it.")
    return _found(seen), rows, _mapping(seen), json.dumps(preview.parts(seen.mapping)[:MAPPED_PARTS])


def _found(seen: preview.Preview) -> str:
    failed = [e for _, e in seen.rows if isinstance(e, str)] + [
        e.dropped for _, e in seen.rows if not isinstance(e, str) and e.dropped
    ]
    text = views.message("good", "Found", seen.mapping.why)
    if failed:
        kind = "bad" if len(failed) == len(seen.rows) else "warn"
        text += views.message(
            kind, f"{len(failed)} of these {len(seen.rows)} rows are left out:", f"{failed[0]} (and so on, below)."
        )
    return text + "".join(f'<p class="note">{views.escape(note)}</p>' for note in seen.notes)


def _mapping(seen: preview.Preview) -> list[dict]:
    updates = []
    names = preview.parts(seen.mapping)[:MAPPED_PARTS]
    for part in names:
        column = seen.mapping.columns.get(part)
        updates.append(gr.update(visible=True, label=f"{part} is in", choices=["", *seen.columns], value=column or ""))
    return updates + [gr.update(visible=False)] * (MAPPED_PARTS - len(names))


def chosen_columns(parts: str, values: list[str | None]) -> str:
    """The mapping that the dropdowns say, as the JSON of ``data.columns``."""
    names = json.loads(parts or "[]")
    return json.dumps({part: value for part, value in zip(names, values, strict=False) if value})
