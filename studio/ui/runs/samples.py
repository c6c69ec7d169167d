"""Sample answers during training, beside the base model's, with a slider over the steps."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from studio.runs import RunSnapshot
from studio.ui.views import escape
from studio.workspace import ASSETS


def build() -> gr.HTML:
    """The card; its value is what :func:`html` gives. The slider works in the page and asks the server for nothing."""
    return gr.HTML(
        "", js_on_load=(ASSETS / "samples.js").read_text(encoding="utf-8"), elem_id="samples", elem_classes="samples"
    )


def signature(run_id: str, view: RunSnapshot) -> str:
    """What changes when there are new samples."""
    return f"{run_id} {len(view.samples)} {max(view.samples, default=0)}"


def html(view: RunSnapshot) -> str:
    """The card: for each prompt the base's answer and the one at the newest step; the others are carried along."""
    steps = sorted(view.samples)
    if not steps:
        return ""
    last = steps[-1]
    outputs = {step: {number: _output(told) for number, told in view.samples[step].items()} for step in steps}
    prompts: dict[int, dict[str, Any]] = {}
    for step in steps:
        for number, told in view.samples[step].items():
            prompts.setdefault(number, told)
    carried = escape(json.dumps(outputs, ensure_ascii=False))
    slider = (
        f'<label class="facebar">Step <input type="range" min="0" max="{len(steps) - 1}" value="{len(steps) - 1}" '
        f'step="1" aria-label="Step of the samples" aria-valuetext="step {last:,}"> <output>{last:,}</output></label>'
    )
    body = "".join(_prompt(number, told, outputs, last) for number, told in sorted(prompts.items()))
    return (
        f'<div class="card sampled" data-outputs="{carried}"><div class="sampled-head">'
        "<h3>Sample answers during training</h3>"
        f"{slider if len(steps) > 1 else ''}</div>{body}</div>"
    )


def _prompt(number: int, told: dict[str, Any], outputs: dict[int, dict[int, str]], last: int) -> str:
    base = outputs.get(0, {}).get(number)
    expected = told.get("expected")
    wanted = f'<p class="note">In the data: <span>{escape(expected)}</span></p>' if expected else ""
    return (
        f'<div class="sampled-row"><p class="asked">{escape(told["prompt"])}</p><div class="panes">'
        f'<div class="said base"><small>Base</small><div>{_said(base)}</div></div>'
        f'<div class="said tuned"><small>At step <span class="at">{last:,}</span></small>'
        f'<div data-number="{number}">{_said(outputs[last].get(number))}</div></div></div>{wanted}</div>'
    )


def _output(told: dict[str, Any]) -> str:
    return told["output"].strip() + (" …" if told.get("cut") else "")


def _said(output: str | None) -> str:
    return "–" if output is None else escape(output) or "(nothing)"
