"""What the tabs' wiring shares: how an event is sent, and where an error becomes a notice on the page."""

from __future__ import annotations

import functools
from typing import Any

import gradio as gr

from studio.errors import StudioError

QUEUED = {"show_progress": "hidden", "api_visibility": "private"}
QUIET = {"queue": False, **QUEUED}


def session_of(request: gr.Request | None) -> str:
    """The browser session that a handler answers; empty where it is not known."""
    return str(getattr(request, "session_hash", "") or "") if request else ""


def told(fn: Any) -> Any:
    """``fn`` with its StudioErrors shown to the person as a notice that stays until it is closed."""

    @functools.wraps(fn)  # Gradio looks at the signature, whether it takes the request
    def handler(*arguments: Any) -> Any:
        try:
            return fn(*arguments)
        except StudioError as error:
            raise gr.Error(f"{error.what} {error.fix}".strip(), duration=None, print_exception=False) from error

    return handler
