"""The Compare tab: the base and the tuned model answer the same prompt, side by side, at the same time."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.data.classes import FILE as CLASSES
from studio.errors import StudioError
from studio.runs import Run
from studio.ui import panes as conversation
from studio.ui import views
from studio.ui.desk import Desk
from studio.ui.wiring import QUEUED, QUIET, told

log = logging.getLogger(__name__)


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


def build(runs: Sequence[tuple[str, str]] = ()) -> CompareTab:
    """The tab with its choice of tuned ``runs``."""
    first = runs[0][1] if runs else None
    with gr.Column(elem_classes="card"), gr.Row(equal_height=False):
        run = gr.Dropdown(
            list(runs),
            value=first,
            label="Tuned model",
            info="A run with a saved model, or adapter:NAME with a folder or Hub id of any PEFT adapter.",
            allow_custom_value=True,
            interactive=True,
            elem_id="tuned",
        )
        system = gr.Textbox(
            label="System message",
            info="Put before the conversation in both panes; empty means none.",
            max_lines=3,
            interactive=True,
            elem_id="system",
        )
    notice = gr.HTML(elem_id="compare-notice")
    panes = gr.HTML(conversation.draw([], [], first or "", ""), elem_id="panes")
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


def tuned(desk: Desk) -> list[tuple[str, str]]:
    """Runs with a model that writes text, newest first."""
    return [(f"{run.id} · {status}", run.id) for run, status in desk.index.look() if run.has_model and writes_text(run)]


def writes_text(run: Run) -> bool:
    """Whether a tuned model can be talked to; a classifier's has its classes beside it. Reads no recipe: there may be
    a thousand runs."""
    return not (run.model_dir / CLASSES).exists()


class Answers(threading.Event):
    """Two answers that are being written. When it is set, they end and what they have written is kept.

    Args:
        run_id: the tuned model that is asked.
    """

    def __init__(self, run_id: str | None):
        super().__init__()
        self.run_id = run_id
        self.discarded = False

    def discard(self, run_id: str | None) -> None:
        """End the answers and keep nothing of them; ``run_id`` is the run that the empty panes are for."""
        self.run_id, self.discarded = run_id, True
        self.set()


def talk(
    desk: Desk,
    session: str,
    run_id: str | None,
    system: str | None,
    history: str | None,
    prompt: str | None,
    sampling: dict[str, Any],
    *,
    regenerate: bool = False,
) -> Iterator[list[Any]]:
    """Let both models answer a prompt, or the last one again.

    The history and the prompt box change only with an answer: after a failure, both are what they were before.

    Args:
        session: the browser that asks; it has one pair of answers at a time.
        history: as the hidden field holds it.

    Yields:
        An update each for the panes, the history, the notice, the prompt, the Send and the Stop button.
    """
    answers = Answers(run_id)
    if desk.stops.setdefault(session, answers) is not answers:  # a double click: the answers are being written
        yield [gr.skip()] * 6
        return
    going = gr.update(interactive=False), gr.update(visible=True)
    ready = gr.update(interactive=True), gr.update(visible=False)
    before, begun, notice = conversation.read_history(history), False, None
    try:
        try:
            turns = conversation.asked_again(before) if regenerate else conversation.asked(before, prompt)
            for panes, after, said in conversation.answer(desk, answers, run_id, system, turns, sampling):
                if answers.discarded:
                    break
                kept = gr.skip() if after is None else json.dumps(after)
                box = gr.skip() if begun or regenerate else ""  # emptied once: the next prompt may be being written
                begun = True
                yield [panes, kept, said, box, *going]
        except StudioError as error:
            notice = views.problem(error)
        except Exception as error:  # the page's edge: the person sees it, the terminal has the traceback
            log.exception("The answers failed")
            what = f"The answers failed: {type(error).__name__}: {str(error)[:300]}"
            notice = views.message(
                "bad", what, "Send the prompt again, or clear the conversation; the studio's terminal has the details."
            )
        if notice is not None and not answers.discarded:
            panes = conversation.draw(*before, run_id or "", "") if begun else gr.skip()
            box = prompt if begun and not regenerate else gr.skip()
            yield [panes, gr.skip(), notice, box, *ready]
        if answers.discarded:  # what was sent last is what stays on the page
            yield [*emptied(answers.run_id), gr.skip(), *ready]
        else:
            yield [*[gr.skip()] * 4, *ready]
    finally:
        answers.set()
        del desk.stops[session]


def clear(desk: Desk, session: str, run_id: str | None) -> tuple[str, str, str]:
    """Empty panes, history and notice; answers that are being written are discarded."""
    answers = desk.stops.get(session)
    if answers:
        answers.discard(run_id)
    return emptied(run_id)


def choose(desk: Desk, session: str, run_id: str | None) -> Any:
    """What :func:`clear` does, unless the answers that are being written are this run's already."""
    answers = desk.stops.get(session)
    if answers and answers.run_id == run_id:
        return [gr.skip()] * 3
    return clear(desk, session, run_id)


def emptied(run_id: str | None) -> tuple[str, str, str]:
    """Panes, history and notice before the first prompt."""
    return conversation.draw([], [], run_id or "", ""), "[]", ""


def chosen(tab: CompareTab, settings: Sequence[Any]) -> dict[str, Any]:
    """The sampling settings; a field that was cleared has the value that it began with."""
    fields = zip(tab.sampling.items(), settings, strict=True)
    return {name: field.value if value is None else value for (name, field), value in fields}


def wire(desk: Desk, tab: CompareTab) -> None:
    """Connect the tab's buttons."""
    inputs = [tab.run, tab.system, tab.history, tab.prompt, *tab.sampling.values()]
    outputs = [tab.panes, tab.history, tab.notice, tab.prompt, tab.send, tab.stop]

    def send(request: gr.Request, run_id: str, system: str, history: str, prompt: str, *settings: Any) -> Any:
        yield from talk(desk, request.session_hash or "", run_id, system, history, prompt, chosen(tab, settings))

    def again(request: gr.Request, run_id: str, system: str, history: str, prompt: str, *settings: Any) -> Any:
        session = request.session_hash or ""
        yield from talk(desk, session, run_id, system, history, prompt, chosen(tab, settings), regenerate=True)

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
        answers = desk.stops.get(request.session_hash or "")
        if answers:
            answers.set()

    def cleared(request: gr.Request, run_id: str | None) -> Any:
        return clear(desk, request.session_hash or "", run_id)

    def changed(request: gr.Request, run_id: str | None) -> Any:
        return choose(desk, request.session_hash or "", run_id)

    def example(run_id: str | None) -> tuple[str, str]:
        if not run_id:
            raise StudioError("No tuned model is chosen.", "Train one first, or choose one above.")
        if run_id.startswith("adapter:"):
            raise StudioError("An adapter has no data of its own to take a prompt from.", "Write one, or choose a run.")
        system, user = conversation.first_user_turn(Run.open(run_id).recipe)
        return user, system

    tab.stop.click(halt, None, None, **QUIET)
    # queued like the answers, so that the page gets them in the order in which they were sent
    tab.clear.click(cleared, tab.run, [tab.panes, tab.history, tab.notice], **QUEUED)
    tab.run.change(changed, tab.run, [tab.panes, tab.history, tab.notice], **QUEUED)
    tab.example.click(told(example), tab.run, [tab.prompt, tab.system], api_visibility="private")
