"""One press on Send: from the prompt to the answers on the page, for each browser one at a time."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.ui import views
from studio.ui.compare import chat_html
from studio.ui.compare import chat_sessions as conversation
from studio.ui.context import AppContext

log = logging.getLogger(__name__)
COUNT = 6  # updates: panes, history, notice, prompt, send, stop


@dataclass(frozen=True)
class Question:
    """What a person has set when they press Send.

    Attributes:
        names: the model of each pane, as ``Target.parse`` reads it; empty where none is chosen.
        system: the system message.
        history: as the hidden field holds it.
        prompt: what is in the box.
        sampling: the shared settings.
        own: for each pane, the settings of its own, ``system`` among them; what is None is as shared.
        view: one of ``pane.VIEWS``.
    """

    names: tuple[str, ...]
    system: str | None
    history: str | None
    prompt: str | None
    sampling: dict[str, Any]
    own: tuple[dict[str, Any], ...] = ()
    view: str = chat_html.VIEWS[0]

    def of_pane(self, number: int) -> dict[str, Any]:
        """The settings of one pane."""
        own = self.own[number] if number < len(self.own) else {}
        shared = {**self.sampling, "system": self.system}
        return {**shared, **{name: value for name, value in own.items() if value not in (None, "")}}


@dataclass
class Answers:
    """Answers that are being written.

    Attributes:
        names: the models that are asked.
        stops: one a pane; when it is set, its answer ends and what it has is kept.
        discarded: nothing of them is to be kept.
        view: how they are drawn.
    """

    names: tuple[str, ...]
    view: str = chat_html.VIEWS[0]
    discarded: bool = False
    stops: list[threading.Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stops = [threading.Event() for _ in self.names]

    def stop(self, number: int | None = None) -> None:
        """End one answer, or all."""
        for at, event in enumerate(self.stops):
            if number is None or at == number:
                event.set()

    def discard(self, names: Sequence[str]) -> None:
        """End the answers and keep nothing of them; ``names`` are the models that the empty panes are for."""
        self.names, self.discarded = tuple(names), True
        self.stop()


def parsed(names: Sequence[str]) -> list[Any]:
    """The targets of all panes.

    Raises:
        StudioError: a pane has no model, or there is no such run.
    """
    from studio.inference import Target

    if not all(names):
        raise StudioError("No tuned model is chosen.", "Train one first, or choose another model for the empty pane.")
    targets = Target.parse_all(list(names))
    for target in targets:
        if target.run_id:
            target.base_below()  # says if there is no such run, before anything is loaded
    return targets


def talk(
    context: AppContext,
    session: str,
    question: Question,
    turns: conversation.Panes | None = None,
    *,
    again: bool = False,
    blind_round: Any = None,
) -> Iterator[list[Any]]:
    """Let all models answer a prompt, or the last one again, or ``turns`` whose last one is a prompt.

    The history and the prompt box change only with an answer: after a failure, both are what they were before.

    Args:
        session: the browser that asks; its answers are written one round at a time.
        blind_round: draws the panes without the names of the models (``studio.ui.compare.judging.Round``).

    Yields:
        An update each for the panes, the history, the notice, the prompt, the Send and the Stop button.
    """
    answers = Answers(question.names, question.view)
    if context.stops.setdefault(session, answers) is not answers:  # a double click: the answers are being written
        yield [gr.skip()] * COUNT
        return
    going = gr.update(interactive=False), gr.update(visible=True)
    ready = gr.update(interactive=True), gr.update(visible=False)
    typed = not again and turns is None
    before = conversation.read_history(question.history, len(question.names))
    begun, notice = False, None
    try:
        try:
            if turns is None:
                turns = conversation.asked_again(before) if again else conversation.asked(before, question.prompt)
            targets = blind_round.targets if blind_round else parsed(question.names)
            top = blind_round.heads if blind_round else heads(question.names, targets)
            below = blind_round.bar() if blind_round else ""
            settings = [question.of_pane(number) for number in range(len(targets))]
            samplings = [conversation.sampling_of(own) for own in settings]
            systems = [own["system"] for own in settings]
            for panes, done in conversation.answer(context, answers.stops, targets, systems, turns, samplings):
                if answers.discarded:
                    break
                kept = json.dumps(panes) if done else gr.skip()
                box = gr.skip() if begun or not typed else ""  # emptied once: the next prompt may be being written
                begun = True
                shown = blind_round.veiled(panes) if blind_round else panes
                drawn = chat_html.draw(shown, top, answers.view, below=below, editable=blind_round is None)
                yield [drawn, kept, "", box, *going]
        except StudioError as error:
            notice = views.problem(error)
        except Exception as error:  # the page's edge: the person sees it, the terminal has the traceback
            log.exception("The answers failed")
            what = f"The answers failed: {type(error).__name__}: {str(error)[:300]}"
            notice = views.message(
                "bad", what, "Send the prompt again, or clear the conversation; the studio's terminal has the details."
            )
        if notice is not None and not answers.discarded:
            panes = gr.skip()
            if begun:
                panes = chat_html.draw(
                    before, blind_round.heads if blind_round else known_heads(question.names), answers.view
                )
            box = question.prompt if begun and typed else gr.skip()
            yield [panes, gr.skip(), notice, box, *ready]
        if answers.discarded:  # what was sent last is what stays on the page
            yield [*emptied(answers.names), gr.skip(), *ready]
        else:
            yield [*[gr.skip()] * 4, *ready]
    finally:
        answers.stop()
        del context.stops[session]


def heads(names: Sequence[str], targets: Sequence[Any] = ()) -> list[chat_html.Head]:
    """What stands over the panes; what a bare ``base`` is, is known once there are ``targets``."""
    base = next((t.model.id for name, t in zip(names, targets, strict=False) if name == "base" and t.model), "")
    return chat_html.heads([name or "" for name in names], base)


def known_heads(names: Sequence[str]) -> list[chat_html.Head]:
    """:func:`heads` with what a bare ``base`` is, where that can be told."""
    try:
        return heads(names, parsed(names))
    except StudioError:
        return heads(names)


def clear(context: AppContext, session: str, names: Sequence[str]) -> tuple[str, str, str]:
    """Empty panes, history and notice; answers that are being written are discarded."""
    answers = context.stops.get(session)
    if answers:
        answers.discard(names)
    return emptied(names)


def choose(context: AppContext, session: str, names: Sequence[str]) -> Any:
    """What :func:`clear` does, unless the answers that are being written are these models' already."""
    answers = context.stops.get(session)
    if answers and answers.names == tuple(names):
        return [gr.skip()] * 3
    return clear(context, session, names)


def emptied(names: Sequence[str]) -> tuple[str, str, str]:
    """Panes, history and notice before the first prompt."""
    return chat_html.draw([[] for _ in names], heads(names)), "[]", ""


def edited(context: AppContext, session: str, question: Question, event: dict[str, Any]) -> Iterator[list[Any]]:
    """Go on from a turn that was changed: a prompt is answered again, an answer is taken as the model's own.

    Args:
        event: ``role``, ``pane``, ``prompt`` (the number of the prompt) and ``text``, as the page sends them.
    """
    before = conversation.read_history(question.history, len(question.names))
    nothing = [gr.skip()] * COUNT
    if session in context.stops:  # the answers are being written
        yield nothing
        return
    try:
        number, text = int(event.get("prompt", -1)), str(event.get("text", ""))
        if event.get("role") != "assistant":
            yield from talk(context, session, question, conversation.asked_from(before, number, text))
            return
        after = conversation.corrected(before, int(event.get("pane", -1)), number, text)
    except StudioError as error:
        yield [gr.skip(), gr.skip(), views.problem(error), *nothing[3:]]
        return
    yield [chat_html.draw(after, known_heads(question.names), question.view), json.dumps(after), "", *nothing[3:]]


def redrawn(context: AppContext, session: str, question: Question, blind_round: Any = None) -> Any:
    """The panes in another view; answers that are being written take it up themselves."""
    if answers := context.stops.get(session):
        answers.view = question.view
        return gr.skip()
    if blind_round and blind_round.panes:
        return blind_round.draw(blind_round.panes, question.view)
    panes = conversation.read_history(question.history, len(question.names))
    return chat_html.draw(panes, known_heads(question.names), question.view)


def of_places(question: Question, places: Sequence[int]) -> Question:
    """The question to some of its panes only, as a new conversation."""
    own = tuple(question.own[place] if place < len(question.own) else {} for place in places)
    return replace(question, names=tuple(question.names[place] for place in places), own=own, history="[]")
