"""The Compare tab: two to four models answer the same prompt, side by side, at the same time; openly or blind."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.runs import Run
from studio.ui import views
from studio.ui.compare import chat_html, judging, suite_panel
from studio.ui.compare import chat_sessions as conversation
from studio.ui.compare import stream_answers as talking
from studio.ui.compare.chat_sessions import LEAST, MOST
from studio.ui.compare.sampling_settings import Settings
from studio.ui.compare.stream_answers import Question
from studio.ui.context import AppContext
from studio.ui.live import live, slot
from studio.ui.runs.names import unique_names
from studio.ui.runs.texts import writes_text
from studio.ui.wiring import QUEUED, QUIET, told
from studio.workspace import ASSETS

_LISTED_RUNS = 10  # whose checkpoints are in the list; others can be typed


@dataclass
class CompareTab:
    models: list[gr.Dropdown]
    count: gr.Radio
    view: gr.Radio
    blind: gr.Checkbox
    tags: gr.Textbox
    system: gr.Textbox
    notice: gr.HTML
    panes: gr.HTML
    history: gr.Textbox
    prompt: gr.Textbox
    send: gr.Button
    stop: gr.Button
    again: gr.Button
    clear: gr.Button
    settings: Settings
    example: gr.Button
    suites: suite_panel.SuitePanel
    table: gr.HTML
    votes: gr.Accordion
    reloaded: gr.Textbox  # the models of the conversation that a reload has brought back, as JSON

    @property
    def run(self) -> gr.Dropdown:
        """The second pane's model, which is the run that one comes from."""
        return self.models[1]

    def inputs(self) -> set[gr.components.Component]:
        """What a press on Send reads."""
        own = {self.count, self.view, self.blind, self.tags, self.system, self.history, self.prompt}
        return {*own, *self.models, *self.settings.components()}

    def restorable(self) -> list[gr.components.Component]:
        """What :func:`restored` updates."""
        return [*self.models, self.count, self.view, self.system, self.history, self.panes, self.reloaded]

    def names(self, values: dict) -> tuple[str, ...]:
        """The models of the panes that are shown."""
        return tuple((values[model] or "").strip() for model in self.models[: int(values[self.count] or LEAST)])

    def question(self, values: dict) -> Question:
        """What a person has set."""
        return Question(
            names=self.names(values),
            system=values[self.system],
            history=values[self.history],
            prompt=values[self.prompt],
            sampling=self.settings.shared_values(values),
            own=self.settings.own_values(values),
            view=values[self.view] or chat_html.VIEWS[0],
        )


def build(choices: Sequence[tuple[str, str]] = (), in_memory: Callable[[], str] = str) -> CompareTab:
    """The tab.

    Args:
        choices: the models, as :func:`models` gives them.
        in_memory: HTML that says which of them are in memory.
    """
    given = defaults(choices)
    with gr.Column(elem_classes="card compare-top"):
        with gr.Row(equal_height=False):
            chosen = [
                gr.Dropdown(
                    list(choices),
                    value=given[number],
                    label=f"Pane {number + 1}",
                    allow_custom_value=True,
                    interactive=True,
                    visible=number < LEAST,
                    min_width=260,
                    elem_id="tuned" if number == 1 else f"model-{number + 1}",
                )
                for number in range(MOST)
            ]
        with gr.Row(elem_classes="compare-bar"):
            count = gr.Radio(
                [str(n) for n in range(LEAST, MOST + 1)], value=str(LEAST), label="Panes", elem_id="pane-count"
            )
            view = gr.Radio(
                list(chat_html.VIEWS), value=chat_html.VIEWS[0], label="Show answers as", elem_id="pane-view"
            )
            blind = gr.Checkbox(False, label="Blind", info="Names are hidden until you vote.", elem_id="blind")
            tags = gr.Textbox(
                label="Prompt tags",
                placeholder="code, billing",
                visible=False,
                min_width=150,
                interactive=True,
                elem_id="vote-tags",
            )
    script = (ASSETS / "panes.js").read_text(encoding="utf-8")
    panes = gr.HTML(talking.emptied(given[:LEAST])[0], elem_id="panes", js_on_load=script)
    history = gr.Textbox("[]", visible="hidden", elem_id="history")
    reloaded = gr.Textbox("", visible="hidden", elem_id="reloaded")
    with gr.Column(elem_classes="card"):
        with gr.Row(equal_height=True):
            prompt = gr.Textbox(
                label="Prompt",
                placeholder="Write a message. Enter sends it, Shift+Enter starts a new line.",
                lines=2,
                max_lines=8,
                scale=3,
                min_width=320,
                interactive=True,
                elem_id="prompt",
            )
            system = gr.Textbox(
                label="System message",
                placeholder="Optional. Leave empty to use the template's default.",
                lines=2,
                max_lines=8,
                scale=2,
                min_width=220,
                interactive=True,
                elem_id="system",
            )
        with gr.Row(elem_classes="compare-actions"):
            send = gr.Button("Send to all", variant="primary", min_width=110, scale=0, elem_id="send")
            again = gr.Button("Regenerate", min_width=110, scale=0, elem_id="again")
            example = gr.Button("Example from dataset", min_width=190, scale=0, elem_id="example")
            clear = gr.Button("Clear", min_width=80, scale=0, elem_id="clear")
            stop = gr.Button("Stop all", variant="stop", visible=False, min_width=90, scale=0, elem_id="stop-answers")
        notice = gr.HTML(elem_id="compare-notice")
        settings = Settings.build()
        live(lambda _: {"parts": {"compare-memory": in_memory()}}, 5, slot(), elem_id="compare-memory")
    suites = suite_panel.build()
    with gr.Accordion("Votes", open=False, elem_classes="accordion-card", elem_id="votes") as votes:
        table = gr.HTML(elem_id="standings")
    return CompareTab(
        chosen, count, view, blind, tags, system, notice, panes, history, prompt, send, stop, again, clear,
        settings, example, suites, table, votes, reloaded,
    )  # fmt: skip


def models(context: AppContext) -> list[tuple[str, str]]:
    """What can be talked to, as (label, value): the base, tuned models (newest first), checkpoints, built-in bases."""
    from studio.inference.load_plan import checkpoint_steps
    from studio.models.builtin import NAME

    found = context.index.look()
    names = unique_names(context.index.names(2.0), [run.id for run, _ in found])
    steps = [(run, step) for run, _ in found[:_LISTED_RUNS] if writes_text(run) for step in checkpoint_steps(run)]
    return [
        ("Its base model", "base"),
        *tuned(context),
        *((f"{names[run.id]} · step {step:,}", f"{run.id}@{step}") for run, step in steps),
        (f"Base · {NAME}", f"base:{NAME}"),
    ]


def defaults(choices: Sequence[tuple[str, str]]) -> list[str | None]:
    """The models of four panes to begin with: the base, the newest run, and what comes after it."""
    others = [value for _, value in choices if value != "base"]
    runs = [value for value in others if not value.startswith("base:")]
    rest = [value for value in others if value not in runs[:1]]
    return ["base", runs[0] if runs else None, *[(rest + [None] * MOST)[at] for at in range(MOST - 2)]]


def tuned(context: AppContext) -> list[tuple[str, str]]:
    """Runs with a model that writes text, newest first."""
    found = [(run, status) for run, status in context.index.look() if run.has_model and writes_text(run)]
    names = unique_names(context.index.names(2.0), [run.id for run, _ in found])
    return [(f"{names[run.id]} · {status}", run.id) for run, status in found]


def offered(
    context: AppContext, tab: CompareTab, values: Sequence[str | None] = (), run_id: str | None = None
) -> list[Any]:
    """Updates of all four choices, with what is there now; a pane without a model gets its default.

    Args:
        values: what is chosen now.
        run_id: the run that one comes from; it goes into the second pane, and its base into the first.
    """
    choices = models(context)
    given = defaults(choices)
    kept = [value or default for value, default in zip([*values, *[None] * MOST], given, strict=False)]
    if run_id:
        kept[:2] = "base", run_id
    return [gr.update(choices=choices, value=value) for value in kept]


_KEEP = """(...values) => {
  const [count, view, blind, system, history] = values.slice(-5);
  const kept = {names: values.slice(0, -5), count, view, system, history: blind ? '[]' : history};
  try { sessionStorage.setItem('sft-studio-compare', JSON.stringify(kept)); } catch { /* too long, or not allowed */ }
}"""


def restored(context: AppContext, tab: CompareTab, kept: Any) -> dict[Any, Any]:
    """Updates of all that :meth:`CompareTab.restorable` names, as a window showed it before it was reloaded.

    Args:
        kept: what the page kept (``_KEEP``), or anything else for what a new visit shows.
    """
    kept = kept if isinstance(kept, dict) else {}
    names = kept.get("names") if isinstance(kept.get("names"), list) else []
    names = [name if isinstance(name, str) else None for name in names][:MOST]
    counts = [str(number) for number in range(LEAST, MOST + 1)]
    count = kept.get("count") if kept.get("count") in counts else counts[0]
    view = kept.get("view") if kept.get("view") in chat_html.VIEWS else chat_html.VIEWS[0]
    system = kept.get("system") if isinstance(kept.get("system"), str) else ""
    updates: dict[Any, Any] = dict(zip(tab.models, offered(context, tab, names), strict=True))
    shown = tuple((update["value"] or "").strip() for update in updates.values())[: int(count)]
    history = conversation.read_history(kept.get("history"), int(count))
    drawn = chat_html.draw(history, talking.known_heads(shown), view)
    return {
        **updates,
        tab.count: count,
        tab.view: view,
        tab.system: system,
        tab.history: json.dumps(history),
        tab.panes: drawn,
        tab.reloaded: json.dumps(shown) if any(history) else "",
    }


def wire(context: AppContext, tab: CompareTab) -> None:
    """Connect the tab's controls."""
    inputs = tab.inputs()
    outputs = [tab.panes, tab.history, tab.notice, tab.prompt, tab.send, tab.stop]
    emptied = [tab.panes, tab.history, tab.notice]

    def ask(values: dict, session: str, again: bool) -> Any:
        question = tab.question(values)
        if values[tab.blind]:
            yield from judging.ask(context, session, question, values[tab.tags], again=again)
        else:
            yield from talking.talk(context, session, question, again=again)

    def send(values: dict, request: gr.Request) -> Any:
        yield from ask(values, request.session_hash or "", False)

    def again(values: dict, request: gr.Request) -> Any:
        yield from ask(values, request.session_hash or "", True)

    # "multiple", because with "once" the page drops a prompt that is sent in the moment after an answer has ended
    say = {
        "inputs": inputs,
        "outputs": outputs,
        "show_progress": "hidden",
        "api_visibility": "private",
        "trigger_mode": "multiple",
        "concurrency_limit": 8,
    }
    tab.send.click(send, **say)  # Enter in the prompt presses it (assets/page.js)
    tab.again.click(again, **say)

    def edit(values: dict, event: gr.EventData, request: gr.Request) -> Any:
        if event._data.get("act") != "edit" or values[tab.blind]:
            yield [gr.skip()] * len(outputs)
            return
        yield from talking.edited(context, request.session_hash or "", tab.question(values), event._data)

    tab.panes.select(edit, **say)

    def halt(request: gr.Request) -> None:
        answers = context.stops.get(request.session_hash or "")
        if answers:
            answers.stop()

    def press(values: dict, event: gr.EventData, request: gr.Request) -> tuple[Any, Any, Any]:
        """Stop one pane, or vote."""
        session, told_page = request.session_hash or "", event._data
        answers = context.stops.get(session)
        if told_page.get("act") == "stop" and answers:
            answers.stop(int(told_page.get("pane", -1)))
        if told_page.get("act") != "vote":
            return gr.skip(), gr.skip(), gr.skip()
        try:
            kept = judging.vote(context, session, str(told_page.get("round")), str(told_page.get("vote")))
        except StudioError as error:
            return gr.skip(), views.problem(error), gr.skip()
        return kept.draw(kept.panes, values[tab.view]), "", judging.table()

    tab.panes.select(press, inputs, [tab.panes, tab.notice, tab.table], trigger_mode="multiple", **QUIET)

    def cleared(values: dict, request: gr.Request) -> Any:
        context.rounds.pop(request.session_hash or "", None)
        return talking.clear(context, request.session_hash or "", tab.names(values))

    def changed(values: dict, request: gr.Request) -> Any:
        context.rounds.pop(request.session_hash or "", None)
        if values[tab.reloaded] == json.dumps(tab.names(values)) and not values[tab.blind]:
            return [gr.skip()] * 4  # a reload has just put them there, with their conversation
        return [*talking.choose(context, request.session_hash or "", tab.names(values)), ""]

    def shown(count: str) -> list[Any]:
        panes = int(count or LEAST)
        return [gr.update(visible=number < panes) for number in range(MOST)]

    def looked(values: dict, request: gr.Request) -> Any:
        session = request.session_hash or ""
        blind_round = context.rounds.get(session) if values[tab.blind] else None
        return talking.redrawn(context, session, tab.question(values), blind_round)

    def example(values: dict) -> tuple[str, str]:
        runs = [name.split("@")[0] for name in tab.names(values) if name and not name.startswith(("base", "adapter:"))]
        if not runs:
            what = "None of the models is a run with data of its own to take a prompt from."
            raise StudioError(what, "Write one, or choose a run.")
        system, user = conversation.first_user_turn(Run.open(runs[0]).recipe)
        return user, system

    suite_panel.wire(context, tab.suites, {tab.count, *tab.models}, tab.names)
    tab.stop.click(halt, None, None, **QUIET)
    # queued like the answers, so that the page gets them in the order in which they were sent
    tab.clear.click(cleared, inputs, emptied, **QUEUED)
    choices = [field.change for field in (*tab.models, tab.count, tab.blind)]
    gr.on(choices, changed, {*inputs, tab.reloaded}, [*emptied, tab.reloaded], **QUEUED)
    kept = [*tab.models, tab.count, tab.view, tab.blind, tab.system, tab.history]
    gr.on([field.change for field in kept], None, kept, None, js=_KEEP)
    tab.prompt.input(None, None, tab.notice, js="() => ''")  # the message was about an earlier prompt
    tab.count.change(shown, tab.count, tab.models, **QUIET)
    tab.count.change(tab.settings.show, tab.count, tab.settings.groups, **QUIET)
    tab.blind.change(lambda on: gr.update(visible=on), tab.blind, tab.tags, **QUIET)
    tab.view.change(looked, inputs, tab.panes, **QUIET)
    tab.example.click(told(example), inputs, [tab.prompt, tab.system], api_visibility="private")
    tab.votes.expand(judging.table, None, tab.table, **QUIET)
