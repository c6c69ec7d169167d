"""The row browser of the Data tab: jump, search, filter by finding, sort by length, page by page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.data.encode import Encoded
from studio.data.formats import SHAPES
from studio.data.quality_report import KINDS
from studio.errors import StudioError
from studio.recipe import Recipe
from studio.training.check import check_state
from studio.training.row_preview import View, Wanted
from studio.ui import views
from studio.ui.context import AppContext
from studio.ui.data import row_html
from studio.ui.data.preview_process import Superseded
from studio.ui.form import Form
from studio.ui.wiring import QUEUED, QUIET, session_of
from studio.workspace import ASSETS

ORDERS = [("As in the dataset", "file"), ("Longest first", "longest"), ("Shortest first", "shortest")]
_NO_PAGE = json.dumps({"next": None, "previous": None})


@dataclass
class RowsPanel:
    first: gr.Number
    flag: gr.Dropdown
    order: gr.Dropdown
    text: gr.Textbox
    before: gr.Button
    after: gr.Button
    page: gr.Textbox
    rows: gr.HTML

    def chosen(self) -> list[gr.components.Component]:
        """The controls that say which rows are shown: first, flag, order, text."""
        return [self.first, self.flag, self.order, self.text]


def build() -> RowsPanel:
    with gr.Column(elem_classes="card", elem_id="rows-card"):
        gr.HTML("<h3>Preview: exactly what is trained</h3>")
        with gr.Row(elem_classes="bottom browse"):
            options: dict[str, Any] = {"interactive": True}
            first = gr.Number(
                1, label="From row", minimum=1, precision=0, min_width=100, scale=1, elem_id="first-row", **options
            )
            options["min_width"] = 150
            text = gr.Textbox(
                label="Search", placeholder="Text in a row", max_lines=1, scale=2, elem_id="rows-search", **options
            )
            options["filterable"] = False
            flag = gr.Dropdown([("All rows", "")], value="", label="Show", scale=3, elem_id="rows-flag", **options)
            order = gr.Dropdown(ORDERS, value="file", label="Order", scale=3, elem_id="rows-order", **options)
            before = gr.Button("Previous 20", min_width=132, scale=0, interactive=False, elem_id="rows-before")
            after = gr.Button("Next 20", min_width=104, scale=0, interactive=False, elem_id="rows-after")
        page = gr.Textbox(_NO_PAGE, visible="hidden", elem_id="rows-page")
        rows = gr.HTML(
            views.empty("No rows yet", "Choose a dataset or upload a file."),
            elem_id="rows",
            js_on_load=(ASSETS / "rows.js").read_text(encoding="utf-8"),
        )
    return RowsPanel(first, flag, order, text, before, after, page, rows)


def wire(context: AppContext, form: Form, panel: RowsPanel, found: list[gr.components.Component]) -> dict[str, Any]:
    """Connect the browser; returns what a handler of others needs to show the rows anew.

    Args:
        found: what else a look at the rows fills: the message, the parts as JSON, and a dropdown for each part.
    """
    own = [panel.rows, panel.flag, panel.page, panel.before, panel.after]

    def look(values: dict, request: gr.Request) -> Iterator[list[Any]]:
        wanted = Wanted(
            form.read(values),
            start=max(1, int(values[panel.first] or 1)),
            flag=values[panel.flag] or "",
            order=values[panel.order] or "file",
            text=(values[panel.text] or "").strip(),
        )
        text = f"Searching for “{wanted.text}”" if wanted.text else "Reading and encoding the rows"
        yield [views.working(text), *[gr.skip()] * (len(found) - 1 + len(own))]
        try:
            yield show(context, wanted, len(found) - 2, session_of(request))
        except Superseded:  # the answer to the newer request is on its way
            yield [gr.skip()] * (len(found) + len(own))

    refresh = {
        "fn": look,
        "inputs": {*form.components(), *panel.chosen()},
        "outputs": [*found, *own],
        **QUEUED,
    }
    gr.on([panel.first.submit, panel.first.blur], **refresh)
    changed = [panel.flag.input, panel.order.input, panel.text.submit]
    gr.on(changed, lambda: 1, None, panel.first, **QUIET).then(**refresh)
    for button, key in ((panel.before, "previous"), (panel.after, "next")):
        button.click(lambda page, key=key: _turned(page, key), panel.page, panel.first, **QUIET).then(**refresh)
    return refresh


def _turned(page: str, key: str) -> Any:
    start = json.loads(page or _NO_PAGE).get(key)
    return start if isinstance(start, int) else gr.skip()


def show(context: AppContext, wanted: Wanted, dropdowns: int, session: str = "") -> list[Any]:
    """Updates for what was found, the parts, the dropdowns of the columns, and the browser.

    Raises:
        Superseded: the session has asked for other rows since.
    """
    hidden = [gr.update(visible=False)] * dropdowns
    still = [gr.update(interactive=False)] * 2
    recipe = wanted.recipe
    refused = [p for p in recipe.problems() if p.field and p.field.startswith("data")]
    try:
        if refused:
            raise refused[0] if len(refused) == 1 else _several(refused)
        seen = context.viewer.view(wanted, session)
    except Superseded:
        raise
    except StudioError as error:
        waits = context.without_model(recipe)
        kind = "warn" if waits else "bad"
        what = views.message(kind, error.what, error.fix) if waits else views.problem(error)
        text = "They are shown as soon as the model is here." if waits else "Correct what is said above."
        return [what, "[]", *hidden, views.empty("No rows to show", text), gr.skip(), _NO_PAGE, *still]
    page = json.dumps({"next": seen.next, "previous": seen.previous})
    buttons = [gr.update(interactive=seen.previous is not None), gr.update(interactive=seen.next is not None)]
    names = parts(seen)[:dropdowns]
    columns = [
        gr.update(
            visible=True,
            label=f"{part.capitalize()} column",
            choices=[("(none)", ""), *seen.columns],
            value=seen.mapping.columns.get(part) or "",
        )
        for part in names
    ]
    columns += [gr.update(visible=False)] * (dropdowns - len(names))
    flags = gr.update(choices=flag_choices(recipe, wanted.flag))
    return [found_html(seen), json.dumps(names), *columns, rows_html(seen, wanted), flags, page, *buttons]


def _several(refused: list[StudioError]) -> StudioError:
    from studio.errors import StudioErrors

    return StudioErrors(refused)


def parts(seen: View) -> list[str]:
    """The parts of the found format that a column can play, the needed ones first; none for a mixture."""
    shape = SHAPES[seen.mapping.format]
    return [*shape.required, *shape.optional] if len(seen.sources) < 2 else []


def flag_choices(recipe: Recipe, chosen: str) -> list[tuple[str, str]]:
    """What the rows can be filtered by: the findings of the report, if it has been made, and the one that is chosen."""
    try:
        report, _ = check_state(recipe)
    except StudioError:
        report = None
    findings = {f.kind: f"{KINDS[f.kind][1]} ({f.count:,})" for f in report.findings} if report else {}
    if chosen and chosen in KINDS:
        findings.setdefault(chosen, f"{KINDS[chosen][1]} (0)")
    total = f"All rows ({report.rows:,})" if report else "All rows"
    return [(total, ""), *((text[0].upper() + text[1:], kind) for kind, text in findings.items())]


def found_html(seen: View) -> str:
    """What was found in the dataset, and what is wrong with the rows that are shown."""
    failed = [e for _, e in seen.rows if isinstance(e, str)]
    failed += [e.dropped for _, e in seen.rows if isinstance(e, Encoded) and e.dropped]
    if len(seen.sources) < 2:
        text = views.message("good", "Found", seen.mapping.why)
    else:
        text = "".join(views.message("good", name, why) for name, why in seen.sources)
    if failed:
        kind = "bad" if len(failed) == len(seen.rows) else "warn"
        count = f"{len(failed)} of these {len(seen.rows)} rows {'is' if len(failed) == 1 else 'are'} left out:"
        text += views.message(kind, count, failed[0].rstrip(".") + (" (and more, below)." if len(failed) > 1 else "."))
    names = json.dumps([one["column"] for one in seen.unused_columns])
    left_out = json.dumps([{"source": one["source"], **one["left_out"]} for one in seen.splits])
    notes = "".join(f'<p class="note">{views.escape(note)}</p>' for note in seen.notes)
    facts = f'data-unused-columns="{views.escape(names)}" data-left-out="{views.escape(left_out)}"'
    return f"{text}<div {facts}>{notes}</div>"


def rows_html(seen: View, wanted: Wanted) -> str:
    """The rows, or why there are none."""
    listed = wanted.flag or wanted.order != "file"
    if seen.rows:
        where = ""
        if listed:
            where = f"{wanted.start:,} to {wanted.start + len(seen.rows) - 1:,} of {seen.total:,}"
            where += f", searched up to row {seen.searched:,}" if seen.searched else ""
        elif wanted.text:
            end = f"up to row {seen.searched:,}" if seen.searched else "to the end of the dataset"
            where = f"{len(seen.rows)} rows contain “{wanted.text}”, searched from row {wanted.start:,} {end}"
        return row_html.html(seen.rows, where)
    if wanted.text and seen.searched:
        return views.empty(
            f"“{wanted.text}” was not found from row {wanted.start:,} to {seen.searched:,}",
            "Press Next 20 to search on from there.",
        )
    if wanted.text:
        return views.empty(f"No row contains “{wanted.text}”", "Search for something else, or show all rows.")
    if listed and not wanted.text:
        return views.empty("There are no such rows", "Choose All rows under Show.")
    return views.empty(f"There is no row {wanted.start:,}", "Choose a smaller number: the dataset ends before it.")
