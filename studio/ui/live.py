"""Parts of the page that follow what goes on: a small script asks the server and puts the answer in its place.

Gradio's own way is a ``gr.Timer`` whose event has outputs. Each of its ticks passes a queue on the server, and in the
browser a copy of the state of every component: a third of a core for one page that shows a run, which a training on
the same machine would lack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from studio.workspace import ASSETS

Ask = Callable[[dict[str, Any]], dict[str, Any]]


def slot(html: str = "") -> str:
    """HTML of a place that a live element fills, until it does. Its component is known by its ``elem_id``."""
    return f"<div data-live>{html}</div>"


def live(ask: Ask, seconds: float, html: str, **options: Any) -> gr.HTML:
    """An element that asks every few seconds while it is seen.

    Args:
        ask: gets ``value`` (the component's), ``seen`` (the text of the hidden ``#seen``) and ``have`` (from its last
            answer) and returns any of: ``parts``, HTML by the ``elem_id`` of the component whose :func:`slot` it
            fills; ``have``, for the next request; ``news``, whether the component's ``tick`` is to be sent, for what
            only Gradio's components can show.
        html: what is there at first, with its :func:`slot`.
    """

    def answer(request: dict[str, Any] | None) -> dict[str, Any]:
        return ask(request if isinstance(request, dict) else {})

    script = f"const SECONDS = {seconds};\n{(ASSETS / 'live.js').read_text(encoding='utf-8')}"
    return gr.HTML(value="", html_template=html, js_on_load=script, server_functions=[answer], **options)
