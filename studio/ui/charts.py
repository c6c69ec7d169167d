"""The live chart: plotly.js in a ``gr.HTML`` that asks the server for what is new and keeps its zoom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.runs import Run, View
from studio.runs.events import read_events
from studio.workspace import ASSETS

_TEMPLATE = """
<div class="chart-bar facebar">
  <label>Smoothing <input type="range" class="ema" min="0" max="0.99" step="0.01" value="0.6"
    aria-label="Smoothing of the training loss"> <span class="ema-value">0.60</span></label>
  <label><input type="checkbox" class="log-scale"> Log scale</label>
  <span class="grow"></span><span class="chart-status note" role="status"></span>
</div>
<div data-chart="loss" role="img" aria-label="Training and validation loss by step"></div>
<div class="small-charts">
  <div data-chart="learning_rate" role="img" aria-label="Learning rate by step"></div>
  <div data-chart="grad_norm" role="img" aria-label="Gradient norm by step"></div>
  <div data-chart="tokens_per_second" role="img" aria-label="Tokens per second by step"></div>
</div>
"""
_STYLE = """
.small-charts { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 8px; }
@media (max-width: 860px) { .small-charts { grid-template-columns: minmax(0, 1fr); } }
"""


class Feed:
    """Follows the event files of runs: each is read once, from where the last look stopped. Shared by all browsers."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, View]] = {}

    def view(self, run: Run) -> View:
        """The run's view, brought up to date with its file."""
        offset, view = self._seen.get(run.id, (0, View()))
        if run.events_path.exists() and run.events_path.stat().st_size < offset:
            offset, view = 0, View()  # the file was replaced
        events, offset = read_events(run.events_path, offset)
        self._seen[run.id] = (offset, view.add(events))
        return view

    def points(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the page does not have yet.

        Args:
            request: ``run`` (an id) and ``cursor``: for each curve how many points the page has and the step of the
                last one, or None for everything.

        Returns:
            ``curves``: name -> (from, steps, values), to be put in place from index ``from`` on; and the new
            ``cursor``. Only curves that changed are there.
        """
        try:
            run = Run.open(str((request or {}).get("run")))
        except StudioError:
            return {"curves": {}, "cursor": None}
        view = self.view(run)
        had = request.get("cursor") or {}
        curves, cursor = {}, {}
        for name, (steps, values) in view.curves.items():
            have, last = had.get(name, (0, None))
            if have and (have > len(steps) or steps[have - 1] != last):
                have = 0  # a resumed run went over these steps again
            if have < len(steps):
                curves[name] = (have, steps[have:], values[have:])
            cursor[name] = (len(steps), steps[-1] if steps else None)
        return {"curves": curves, "cursor": cursor}


def plotly_js() -> Path:
    """plotly.js as plotly.py carries it."""
    import plotly

    return Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def live_chart(feed: Feed, **options: Any) -> gr.HTML:
    """Charts of one run; set the component's value to a run's id."""

    def points(request):
        return feed.points(request)

    return gr.HTML(
        value="",
        html_template=_TEMPLATE,
        css_template=_STYLE,
        js_on_load=(ASSETS / "chart.js").read_text(encoding="utf-8"),
        head=f'<script src="gradio_api/file={plotly_js()}"></script>',
        server_functions=[points],
        **options,
    )
