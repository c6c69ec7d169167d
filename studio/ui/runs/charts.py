"""The live charts: plotly.js in a ``gr.HTML`` that asks the server for what is new and keeps its zoom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import orjson
from starlette.responses import Response

from studio.errors import StudioError
from studio.runs import Run
from studio.runs.feed import Feed, file_size
from studio.runs.index import RunIndex
from studio.ui.runs.chart_data import answer
from studio.workspace import ASSETS

SEPARATOR = " · "  # between a run's name and its status in the list of runs
MOST_RUNS = 6  # on one chart: more lines are not told apart

_TEMPLATE = """
<div class="chart-bar facebar">
  <label title="Weight of the past in the moving average, from step to step; from column to column of pixels where
    there are more steps than that">Smoothing
    <input type="range" class="ema" min="0" max="0.999" step="0.001" value="0.6"
    aria-label="Smoothing of the training loss"> <span class="ema-value">0.60</span></label>
  <label><input type="checkbox" class="log-scale"> Log scale</label>
  <label>By <select class="axis" aria-label="What the horizontal axis shows">
    <option value="step">steps</option><option value="tokens">tokens</option><option value="time">time</option>
  </select></label>
  <span class="grow"></span><span class="chart-status note" role="status"></span>
  <a class="csv" download title="One row a step, with the validation joined">Download CSV</a>
</div>
<div data-chart="loss" role="group" aria-label="Training and validation loss"></div>
<div class="run-legend" hidden></div>
<div class="small-charts">
  <div data-chart="learning_rate" role="group" aria-label="Learning rate"></div>
  <div data-chart="grad_norm" role="group" aria-label="Gradient norm"></div>
  <div data-chart="tokens_per_second" role="group" aria-label="Tokens per second"></div>
  <div data-chart="memory_bytes" role="group" aria-label="Memory"></div>
  <div data-chart="gpu_utilization" role="group" aria-label="GPU utilisation"></div>
  <div data-chart="gpu_temperature" role="group" aria-label="GPU temperature"></div>
</div>
"""
_STYLE = """
.small-charts { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 8px; margin-top: 14px; }
@media (min-width: 1180px) {
  .small-charts:has(> [data-chart=gpu_utilization][hidden]) { grid-template-columns: repeat(4, minmax(0, 1fr)); }
}
.small-charts > [hidden] { display: none; }
[data-chart].awaiting { opacity: .35; }
.ema-value { display: inline-block; min-width: 2.6em; font-variant-numeric: tabular-nums; }
@media (max-width: 860px) { .small-charts { grid-template-columns: minmax(0, 1fr); } }
"""


def points(feed: Feed, request: dict[str, Any], index: RunIndex | None = None) -> dict[str, Any]:
    """What a page does not have yet of the runs that it shows.

    Args:
        request: ``runs``, a list of ``run`` (an id) and ``have`` (see
            :func:`studio.ui.runs.chart_data.answer`), the first one with all its curves and the others drawn over it;
            and what else an answer depends on. Instead of ``run`` a run may have its ``label`` in the list of runs,
            where only one run begins so.
        index: the runs and their names, for labels.

    Returns:
        Run id -> its answer; ``{}`` for a run with nothing new, and for one that is not there.
    """
    said: dict[str, Any] = {}
    asked = request.get("runs")
    listed = [one for one in asked[:MOST_RUNS] if isinstance(one, dict)] if isinstance(asked, list) else []
    for place, one in enumerate(listed):
        try:
            run = Run.open(str(one.get("run") or _labelled(index, str(one.get("label")))))
        except StudioError:
            continue
        have = one.get("have") if isinstance(one.get("have"), dict) else {}
        if have and not request.get("range") and have.get("size") == file_size(run.events_path):
            continue  # nothing has been written: the run need not even be in memory
        said[run.id] = answer(feed.look(run), {**request, "have": have}, overlaid=place > 0)
    return said


def _labelled(index: RunIndex | None, label: str) -> str | None:
    """The id of the one run whose line in the list of runs is ``label``: its name or id, and its status."""
    shown = label.rpartition(SEPARATOR)[0]
    named = [id for id, name in index.names().items() if name == shown] if index else []
    return named[0] if len(named) == 1 else None if named else shown


def plotly_js() -> Path:
    """plotly.js as plotly.py carries it."""
    import plotly

    return Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def live_chart(feed: Feed, index: RunIndex, **options: Any) -> gr.HTML:
    """Charts of one run; set the component's value to a run's id, and ``others`` to the ids drawn over it."""

    def news(request):
        return Response(
            orjson.dumps(points(feed, request if isinstance(request, dict) else {}, index)),
            media_type="application/json",
        )

    scripts = [(ASSETS / name).read_text(encoding="utf-8") for name in ("curves.js", "chart.js")]
    return gr.HTML(
        value="",
        html_template=_TEMPLATE,
        css_template=_STYLE,
        js_on_load="\n".join(scripts),
        head=f'<script src="gradio_api/file={plotly_js()}"></script>',
        server_functions=[news],
        others=[],
        **options,
    )
