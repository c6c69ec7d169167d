"""The log of a run on the page: its end, a search over all of it, and a copy to take along."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.runs import Run
from studio.runs.feed import file_size
from studio.runs.log_lines import FOUND_LINES, search, tail
from studio.ui.views import escape
from studio.workspace import ASSETS

_TEMPLATE = """
<div class="facebar">
  <input type="search" class="log-search" placeholder="Find in the whole log" aria-label="Find in the whole log">
  <span class="log-told note" role="status"></span><span class="grow"></span>
  <button type="button" class="log-copy">Copy all</button>
  <a class="log-download" download>Download log</a>
</div>
<div id="log" class="log-lines mono" tabindex="0" aria-label="Log of the worker">Nothing has been printed yet.</div>
"""


def log_panel(**options: Any) -> gr.HTML:
    """The log of one run; set the component's value to a run's id."""
    return gr.HTML(
        value="",
        html_template=_TEMPLATE,
        js_on_load=(ASSETS / "log.js").read_text(encoding="utf-8"),
        server_functions=[log],
        **options,
    )


def log(request: dict[str, Any]) -> dict[str, Any]:
    """The lines that a page asks for.

    Args:
        request: ``run`` (an id), ``search`` (a text, empty for the end of the log) and ``have`` (the size of the file
            when the page last got an answer to the same question).

    Returns:
        ``html`` of the lines, what is ``told`` about them, and the ``size`` of the file; or ``same``.
    """
    request = request if isinstance(request, dict) else {}
    try:
        run = Run.open(str(request.get("run")))
    except StudioError:
        return {"html": "", "told": "", "size": 0}
    size, wanted = file_size(run.log_path), str(request.get("search") or "").strip()
    if request.get("have") == size:
        return {"same": True}
    if wanted:
        found, count = search(run.log_path, wanted)
        told = f"{count:,} lines" if count != 1 else "1 line"
        told += f", the last {FOUND_LINES} are shown" if count > len(found) else ""
        html = "\n".join(f'<span class="n">{number}</span> {marked(line, wanted)}' for number, line in found)
    else:
        lines, more = tail(run.log_path)
        told = "The end of the log; a search goes over all of it" if more else ""
        html = escape("\n".join(lines)) or "Nothing has been printed yet."
    return {"html": html, "told": told, "size": size}


def marked(line: str, wanted: str) -> str:
    """A line as HTML with every place that holds ``wanted``, whatever its case, marked."""
    html, at, low = "", 0, line.lower()
    if len(low) != len(line):  # a letter whose small form is two: the places would not fit
        return escape(line)
    while (found := low.find(wanted.lower(), at)) >= 0:
        end = found + len(wanted)
        html += f"{escape(line[at:found])}<mark>{escape(line[found:end])}</mark>"
        at = end
    return html + escape(line[at:])
