"""The Compare tab: the base and the tuned model answer the same prompt, side by side, at the same time."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.runs import Run, list_runs
from studio.ui import panes as conversation
from studio.ui import views
from studio.ui.desk import Desk
from studio.ui.wiring import QUIET, told


@dataclass
class CompareTab:
    run: gr.Dropdown
    system: gr.Textbox
    notice: gr.HTML
    panes: gr.HTML
    history: gr.Textbox
    prompt: gr.Textbox
    send: gr.Button
    stop: gr.Button
    again: gr.Button
    clear: gr.Button
    sampling: dict[str, gr.components.Component]
    example: gr.Button


def build() -> CompareTab:
    with gr.Column(elem_classes="card"), gr.Row(equal_height=False):
        run = gr.Dropdown(
            tuned(), label="Tuned model", info="A run with a saved model.", interactive=True, elem_id="tuned"
        )
        system = gr.Textbox(
            label="System message",
            info="Put before the conversation in both panes; empty means none.",
            max_lines=3,
            interactive=True,
            elem_id="system",
        )
    notice = gr.HTML(elem_id="compare-notice")
    panes = gr.HTML(conversation.draw([], [], "", ""), elem_id="panes")
    history = gr.Textbox("[]", visible="hidden", elem_id="history")
    with gr.Column(elem_classes="card"):
        prompt = gr.Textbox(
            label="Prompt for both",
            placeholder="Write a message. Enter sends it, Shift+Enter starts a new line.",
            lines=2,
            max_lines=8,
            interactive=True,
            elem_id="prompt",
        )
        with gr.Row():
            send = gr.Button("Send to both", variant="primary", min_width=110, elem_id="send")
            stop = gr.Button("Stop", variant="stop", visible=False, min_width=80, elem_id="stop-answers")
            example = gr.Button("Prompt from the data", min_width=110, elem_id="example")
            again = gr.Button("Regenerate", min_width=90, elem_id="again")
            clear = gr.Button("Clear", min_width=80, elem_id="clear")
        with gr.Accordion("Sampling, the same for both", open=False), gr.Row():
            options = {"interactive": True}
            sampling = {
                "temperature": gr.Slider(
                    0, 2, 0.0, step=0.05, label="Temperature", info="0 takes the likeliest token each time.", **options
                ),
                "top_p": gr.Slider(
                    0.05, 1, 0.9, step=0.05, label="Top-p", info="Share of the probability that is kept.", **options
                ),
                "top_k": gr.Slider(
                    0, 200, 0, step=1, label="Top-k", info="Tokens that are kept; 0 keeps all.", **options
                ),
                "repetition_penalty": gr.Slider(
                    1, 2, 1.0, step=0.05, label="Repetition penalty", info="1 is none.", **options
                ),
                "max_new_tokens": gr.Slider(
                    16, 2048, 256, step=16, label="Longest answer", info="In tokens.", **options
                ),
                "seed": gr.Number(0, precision=0, label="Seed", info="The same seed gives the same answer.", **options),
            }
    return CompareTab(run, system, notice, panes, history, prompt, send, stop, again, clear, sampling, example)


def tuned() -> list[tuple[str, str]]:
    """Runs with a model, newest first."""
    return [(f"{run.id} · {run.status}", run.id) for run in list_runs() if run.has_model]


def wire(desk: Desk, tab: CompareTab) -> None:
    """Connect the tab's buttons."""
    sampling = list(tab.sampling.values())
    inputs = [tab.run, tab.system, tab.history, tab.prompt, *sampling]
    outputs = [tab.panes, tab.history, tab.notice, tab.prompt, tab.send, tab.stop]

    def talk(regenerate: bool, request: gr.Request, values: tuple) -> Any:
        session, stop = request.session_hash or "", threading.Event()
        if desk.stops.setdefault(session, stop) is not stop:  # a double click: the answers are being written
            yield [gr.skip()] * 6
            return
        try:
            yield from speak(stop, regenerate, values)
        finally:
            del desk.stops[session]

    def speak(stop: threading.Event, regenerate: bool, values: tuple) -> Any:
        run_id, system, history, prompt, *settings = values
        turns = conversation.read_history(history)
        if regenerate:
            turns = [conversation.without_answer(pane) for pane in turns]
        elif prompt and prompt.strip():
            turns = [[*pane, {"role": "user", "content": prompt.strip()}] for pane in turns]
        if not turns[0] or turns[0][-1]["role"] != "user":
            notice = views.message("warn", "The prompt is empty.", "Write a message first.")
            yield gr.skip(), gr.skip(), notice, *[gr.skip()] * 3
            return
        going = gr.update(interactive=False), gr.update(visible=True)
        options = dict(zip(tab.sampling, settings, strict=True))
        for panes, after, notice in conversation.answer(desk, stop, run_id, system, turns, options):
            yield panes, json.dumps(after), notice, "", *going
        yield *[gr.skip()] * 4, gr.update(interactive=True), gr.update(visible=False)

    def send(request: gr.Request, *values: Any) -> Any:
        yield from talk(False, request, values)

    def again(request: gr.Request, *values: Any) -> Any:
        yield from talk(True, request, values)

    # "multiple", because with "once" the page drops a prompt that is sent in the moment after an answer has ended
    say = {
        "inputs": inputs,
        "outputs": outputs,
        "show_progress": "hidden",
        "api_visibility": "private",
        "trigger_mode": "multiple",
        "concurrency_limit": 8,
    }
    gr.on([tab.send.click, tab.prompt.submit], send, **say)
    tab.again.click(again, **say)

    def halt(request: gr.Request) -> None:
        stop = desk.stops.get(request.session_hash or "")
        if stop:
            stop.set()

    def emptied(run_id: str | None) -> tuple[str, str, str]:
        return conversation.draw([], [], run_id or "", ""), "[]", ""

    def example(run_id: str | None) -> tuple[str, str]:
        if not run_id:
            raise StudioError("No tuned model is chosen.", "Train one first, or choose one above.")
        system, user = conversation.first_user_turn(Run.open(run_id).recipe)
        return user, system

    tab.stop.click(halt, None, None, **QUIET)
    tab.clear.click(emptied, tab.run, [tab.panes, tab.history, tab.notice], **QUIET)
    tab.run.change(emptied, tab.run, [tab.panes, tab.history, tab.notice], **QUIET)
    tab.example.click(told(example), tab.run, [tab.prompt, tab.system], api_visibility="private")
