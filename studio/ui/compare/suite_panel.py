"""A whole suite asked of all panes of the Compare tab: in batches, with a pause, and a table of all answers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.evaluation.prompt_files import ENDINGS
from studio.evaluation.suite_export import FORMATS, export, rows
from studio.evaluation.suites import GENERAL, builtin_suites, load_suite
from studio.ui import views
from studio.ui.compare import suite_table
from studio.ui.context import AppContext
from studio.ui.data import uploads
from studio.ui.wiring import QUEUED, QUIET, told
from studio.workspace import ASSETS, safe_name

log = logging.getLogger(__name__)
_ENDINGS = {"csv": "csv", "jsonl": "jsonl", "md": "md", "llm-comparator": "json"}
_TITLES = {"csv": "CSV", "jsonl": "JSONL", "md": "Markdown", "llm-comparator": "LLM Comparator"}


@dataclass
class Asking:
    """A suite that is being asked, or was, for one browser.

    Attributes:
        said: what is being done, how far it is, and how far it goes.
        done: the answers once it has ended or was paused.
    """

    names: tuple[str, ...]
    suite: str
    said: tuple[str, int, int] = ("Starting", 0, 0)
    done: Any = None
    error: StudioError | None = None
    pausing: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    @property
    def going(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    @property
    def paused(self) -> bool:
        """Whether prompts are left because it was paused."""
        return self.done is not None and not all(self.done.whole(name) for name in self.done.answers)

    def start(self, context: AppContext) -> None:
        """Ask what is not answered yet, in a thread."""
        self.thread = threading.Thread(target=self._work, args=(context,), name="suite", daemon=True)
        self.thread.start()

    def _work(self, context: AppContext) -> None:
        from studio.evaluation.suite_run import run_suite

        def progress(what: str, done: int, total: int) -> None:
            self.said = (what, done, total)

        try:
            self.done = run_suite(
                load_suite(self.suite), list(self.names), context.engine, progress=progress, stopped=self.pausing.is_set
            )
        except StudioError as error:
            self.error = error
        except Exception as error:  # the thread's edge: the page shows it, the log has the traceback
            log.exception("A suite failed")
            self.error = StudioError(f"The suite failed: {type(error).__name__}: {str(error)[:300]}", "See the log.")


@dataclass
class SuitePanel:
    suite: gr.Dropdown
    upload: gr.UploadButton
    ask: gr.Button
    pause: gr.Button
    state: gr.HTML
    answers: gr.HTML
    files: list[gr.DownloadButton]
    timer: gr.Timer

    @property
    def shown(self) -> list[Any]:
        """What :func:`show` updates."""
        return [self.ask, self.pause, self.state, self.answers, *self.files, self.timer]


def build() -> SuitePanel:
    with gr.Accordion("Run a prompt suite", open=False, elem_classes="accordion-card", elem_id="ask-suite"):
        with gr.Row(elem_classes="bottom"):
            suite = gr.Dropdown(
                builtin_suites(),
                value=GENERAL,
                label="Suite",
                info="A built-in one, or a file of prompts: JSON, JSONL, CSV, or one a line.",
                allow_custom_value=True,
                interactive=True,
                min_width=260,
                elem_id="asked-suite",
            )
            upload = gr.UploadButton(
                "Upload suite", file_types=list(ENDINGS), min_width=110, scale=0, elem_id="asked-file"
            )
            ask = gr.Button("Run suite", min_width=130, scale=0, elem_id="ask-panes")
            pause = gr.Button("Pause", min_width=90, scale=0, visible=False, elem_id="pause-suite")
        state = gr.HTML(_nothing(), elem_id="suite-state")
        script = (ASSETS / "suite.js").read_text(encoding="utf-8")
        answers = gr.HTML(elem_id="panes-answers", js_on_load=script)
        with gr.Row():
            files = [
                gr.DownloadButton(f"↓ {_TITLES[kind]}", visible=False, min_width=150, elem_id=f"suite-{kind}")
                for kind in FORMATS
            ]
    return SuitePanel(suite, upload, ask, pause, state, answers, files, gr.Timer(1.0, active=False))


def _nothing() -> str:
    return views.empty(
        "No suite was asked yet",
        "Every pane gets every prompt, in batches, and takes the likeliest token each time. What was asked is kept "
        "and not asked again.",
    )


def show(context: AppContext, panel: SuitePanel, session: str) -> dict[Any, Any]:
    """Updates for what a browser has asked."""
    asking: Asking | None = context.suites.get(session)
    hidden = [gr.update(visible=False)] * len(panel.files)
    if asking is None:
        return dict(
            zip(panel.shown, [gr.skip(), gr.skip(), _nothing(), "", *hidden, gr.Timer(active=False)], strict=True)
        )
    going = asking.going
    updates: dict[Any, Any] = {
        panel.ask: gr.update(interactive=not going, value="Continue" if asking.paused else "Run suite"),
        panel.pause: gr.update(visible=going, interactive=not asking.pausing.is_set()),
        panel.timer: gr.Timer(active=going),
    }
    if going:
        what, done, total = asking.said
        if asking.pausing.is_set():
            what = "Pausing: the batch in work is answered first"
        return {**updates, panel.state: views.working(what, done, total, "answers")}
    if asking.error:
        return {**updates, panel.state: views.problem(asking.error), panel.answers: ""} | dict(
            zip(panel.files, hidden, strict=True)
        )
    done = asking.done
    names, answered = list(done.answers), min(len(done.answers[name]) for name in done.answers)
    total = len(done.suite.prompts)
    said = ""
    if asking.paused:
        said = views.message(
            "calm", f"Paused: {answered:,} of {total:,} prompts have every answer.", "Continue asks the rest."
        )
    suites = [{"name": done.suite.name, "answers": rows(done)}]
    return {
        **updates,
        panel.state: said + suite_table.summary(done),
        panel.answers: suite_table.html(suites, [(name, name) for name in names]),
        **{
            button: _file(context, session, done, kind, names)
            for kind, button in zip(FORMATS, panel.files, strict=True)
        },
    }


def _file(context: AppContext, session: str, done: Any, kind: str, names: Sequence[str]) -> Any:
    """A download of the answers; LLM Comparator's shows two models."""
    if kind == "llm-comparator" and len(names) != 2:
        return gr.update(visible=False)
    path = (
        context.downloads / f"{safe_name(done.suite.name, 'suite')}-{safe_name(session, 'page')[:8]}.{_ENDINGS[kind]}"
    )
    try:
        path.write_text(export(done, kind), encoding="utf-8-sig" if kind == "csv" else "utf-8", newline="")
    except OSError as error:
        raise StudioError(f"The answers cannot be handed out: {error.strerror}.", "Free some disk space.") from error
    return gr.update(visible=True, value=str(path))


def wire(context: AppContext, panel: SuitePanel, inputs: set[Any], names: Any) -> None:
    """Connect the panel; ``inputs`` are the fields that ``names(values)`` reads the panes' models from."""

    def ask(values: dict, request: gr.Request) -> dict:
        session = request.session_hash or ""
        asked, suite = names(values), values[panel.suite]
        if not all(asked):
            raise StudioError("A pane has no model.", "Choose one for each pane.")
        if len(set(asked)) < len(asked):
            raise StudioError("Two panes have the same model.", "A suite is asked of different models.")
        if not suite:
            raise StudioError("No suite is chosen.", "Choose one, or add a file.")
        if context.on_zero_gpu is not None:
            raise StudioError("A suite takes longer than ZeroGPU lends a GPU.", "Use `python app.py suite` on a GPU.")
        load_suite(suite)
        going = context.suites.get(session)
        if not going or not going.going:  # a second click changes nothing
            context.suites[session] = Asking(asked, suite)
            context.suites[session].start(context)
        return show(context, panel, session)

    def pause(request: gr.Request) -> dict:
        asking = context.suites.get(request.session_hash or "")
        if asking:
            asking.pausing.set()
        return show(context, panel, request.session_hash or "")

    def look(request: gr.Request) -> dict:
        return show(context, panel, request.session_hash or "")

    def add(path: str) -> str:
        load_suite(path)
        return uploads.keep_uploads([path], uploads.SUITES)

    panel.ask.click(told(ask), {*inputs, panel.suite}, panel.shown, trigger_mode="once", **QUEUED)
    panel.pause.click(pause, None, panel.shown, **QUIET)
    panel.timer.tick(look, None, panel.shown, **QUIET)
    panel.upload.upload(told(add), panel.upload, panel.suite, **QUEUED)
