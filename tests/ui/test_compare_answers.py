"""The answers of the Compare tab: what the page holds while they come in, after they ended, and after they failed."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest

from studio.errors import StudioError
from studio.inference import Piece
from studio.recipe import Recipe
from studio.ui.compare import stream_answers as talking
from studio.ui.compare import tab as compare_tab

FIELDS = ("panes", "history", "notice", "prompt", "send", "stop")
SAMPLING = {
    "temperature": 0.0,
    "top_p": 0.9,
    "top_k": 0,
    "repetition_penalty": 1.0,
    "max_new_tokens": 16,
    "seed": 0,
}


class Page:
    """What a browser shows: it takes over every update, as Gradio's page does."""

    def __init__(self, context, run_id="tuned", prompt=""):
        self.context, self.run_id, self.sampling = context, run_id, dict(SAMPLING)
        self.panes, self.history, self.notice, self.prompt = "", "[]", "", prompt
        self.send, self.stop = {"interactive": True}, {"visible": False}

    def take(self, updates) -> None:
        for name, update in zip(FIELDS, updates, strict=False):
            if not isinstance(update, dict):
                setattr(self, name, update)
            elif update != {"__type__": "update"}:
                setattr(self, name, {**getattr(self, name), **update})

    @property
    def question(self):
        """What a press on Send reads."""
        return talking.Question(names(self.run_id), "", self.history, self.prompt, self.sampling)

    def answers(self, prompt=None, regenerate=False):
        """The updates of one press on Send (or Regenerate), taken over one by one."""
        if prompt is not None:
            self.prompt = prompt
        for updates in talking.talk(self.context, "browser", self.question, again=regenerate):
            self.take(updates)
            yield self

    def say(self, prompt=None, regenerate=False) -> None:
        for _ in self.answers(prompt, regenerate):
            pass

    @property
    def turns(self) -> list[list[str]]:
        """The hidden history of each pane, as its texts."""
        return [[turn["content"] for turn in pane] for pane in json.loads(self.history)]

    @property
    def can_send(self) -> bool:
        return self.send["interactive"] and not self.stop["visible"]


def names(run_id) -> tuple[str, str]:
    """The models of both panes."""
    return "base", run_id or ""


def end(text: str) -> Piece:
    return Piece(text, 1, 0.1, 0.1, "end")


def failure(what: str = "Out of memory.") -> Piece:
    return Piece("", 0, 0.0, finished="failed", error=StudioError(what, "Write less."))


@pytest.fixture
def context(home):
    """A context with one run, whose engine opens nothing."""
    folder = home / "runs" / "tuned"
    folder.mkdir(parents=True)
    Recipe().save(folder / "recipe.yaml")
    return SimpleNamespace(stops={}, rounds={}, on_zero_gpu=None, engine=SimpleNamespace(open=lambda target: target))


@pytest.fixture
def models(monkeypatch):
    """Stands for both models: ``pieces`` is what they write each time, ``heard`` what they were asked."""
    both = SimpleNamespace(pieces=[(0, end("base says")), (1, end("tuned says"))], heard=[], settings=[])

    def stream_many(handles, messages, samplings, stops):
        for handle in handles:
            handle()
        both.heard.append([[turn["content"] for turn in turns] for turns in messages])
        both.settings.append(samplings)
        for pane, piece in both.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield pane, Piece("", 0, 0.0, finished="stopped") if stops[pane].is_set() else piece

    monkeypatch.setattr("studio.inference.stream_many", stream_many)
    monkeypatch.setattr("studio.ui.compare.chat_sessions._REDRAW_SECONDS", -1.0)  # every piece is shown
    return both


@pytest.fixture
def page(context, models):
    return Page(context)


def test_an_answered_prompt_is_kept_with_both_answers_and_the_next_may_be_sent(page):
    page.say("Hello")
    page.say("Again")
    assert page.turns == [
        ["Hello", "base says", "Again", "base says"],
        ["Hello", "tuned says", "Again", "tuned says"],
    ]
    assert (page.prompt, page.notice, page.can_send) == ("", "", True)
    assert page.context.stops == {}


def test_the_next_prompt_can_be_written_while_answers_come_in(page):
    for step, _ in enumerate(page.answers("Hello")):
        if step == 0:
            assert page.prompt == ""
            page.prompt = "The next"
    assert page.prompt == "The next"


@pytest.mark.parametrize("moment", range(5))
def test_clear_at_any_moment_leaves_the_panes_and_the_history_empty(page, moment):
    for step, _ in enumerate(page.answers("Hello")):
        if step == moment:
            page.take(talking.clear(page.context, "browser", names("tuned")))
            page.prompt = "The next"
    assert (page.history, page.notice, page.prompt, page.can_send) == ("[]", "", "The next", True)
    assert "Hello" not in page.panes
    assert "says" not in page.panes


def test_clear_after_the_answers_empties_the_panes(page):
    page.say("Hello")
    page.take(talking.clear(page.context, "browser", names("tuned")))
    assert page.history == "[]"
    assert "Hello" not in page.panes


def test_clear_ends_the_answers_of_this_browser_only(page):
    for step, _ in enumerate(page.answers("Hello")):
        if step == 1:
            talking.clear(page.context, "another browser", names("tuned"))
    assert page.turns == [["Hello", "base says"], ["Hello", "tuned says"]]


def test_another_run_discards_the_answers_and_its_name_stands_over_the_empty_pane(page):
    for step, _ in enumerate(page.answers("Hello")):
        if step == 1:
            page.take(talking.choose(page.context, "browser", names("other")))
    assert page.history == "[]"
    assert "Hello" not in page.panes
    assert "◆ Tuned · other" in page.panes


def test_the_same_run_chosen_again_lets_its_answers_go_on(page):
    for step, _ in enumerate(page.answers("Hello")):
        if step == 1:
            page.take(talking.choose(page.context, "browser", names("tuned")))
    assert page.turns == [["Hello", "base says"], ["Hello", "tuned says"]]


def test_clear_wins_over_a_failure_at_the_same_time(page, models):
    models.pieces = [(0, ValueError("broken"))]
    for step, _ in enumerate(page.answers("Hello")):
        if step == 0:
            page.take(talking.clear(page.context, "browser", names("tuned")))
    assert (page.history, page.notice, page.prompt, page.can_send) == ("[]", "", "", True)


def test_a_second_press_while_answers_are_written_changes_nothing(page):
    for step, _ in enumerate(page.answers("Hello")):
        if step == 1:
            assert list(talking.talk(page.context, "browser", page.question)) == [[{"__type__": "update"}] * 6]
    assert page.turns == [["Hello", "base says"], ["Hello", "tuned says"]]


@pytest.mark.parametrize(
    ("run_id", "prompt", "words"),
    [
        (None, "Hello", "No tuned model is chosen."),
        ("absent", "Hello", "There is no run"),
        ("tuned", " ", "The prompt is empty."),
    ],
)
def test_a_prompt_that_cannot_be_asked_stays_in_the_box_and_out_of_the_history(page, models, run_id, prompt, words):
    page.run_id = run_id
    page.say(prompt)
    assert words in page.notice
    assert (page.history, page.prompt, page.can_send) == ("[]", prompt, True)
    assert models.heard == []


def test_a_prompt_that_both_models_fail_at_comes_back_and_is_not_asked_twice(page, models):
    page.say("Hello")
    good, models.pieces = models.pieces, [(1, failure()), (0, failure())]
    page.say("Too long")
    assert page.notice.count("Out of memory.") == 1
    assert (page.prompt, page.can_send) == ("Too long", True)
    assert "Too long" not in page.panes
    assert page.turns == [["Hello", "base says"], ["Hello", "tuned says"]]
    models.pieces = good
    page.say()
    assert models.heard[-1] == [["Hello", "base says", "Too long"], ["Hello", "tuned says", "Too long"]]


def test_a_pane_that_fails_keeps_no_answer_and_the_next_round_works_for_both(page, models):
    good, models.pieces = models.pieces, [(0, end("base says")), (1, failure())]
    page.say("First")
    assert page.turns == [["First", "base says"], ["First"]]
    assert "Out of memory." in page.panes
    assert page.can_send
    models.pieces = good
    page.say("Second")
    assert models.heard[-1] == [["First", "base says", "Second"], ["Second"]]
    assert page.turns == [["First", "base says", "Second", "base says"], ["First", "Second", "tuned says"]]
    assert "Out of memory." in page.panes  # why the first prompt has no answer there


def test_regenerate_asks_both_again_where_one_had_failed(page, models):
    good, models.pieces = models.pieces, [(0, end("base says")), (1, failure())]
    page.say("First")
    models.pieces = good
    page.say(regenerate=True)
    assert models.heard[-1] == [["First"], ["First"]]
    assert page.turns == [["First", "base says"], ["First", "tuned says"]]
    assert "Out of memory." not in page.panes


def test_a_regeneration_that_fails_keeps_the_answers_from_before_and_the_prompt_box(page, models):
    page.say("First")
    models.pieces = [(0, failure()), (1, failure("Not enough context."))]
    page.prompt = "Half a thought"
    page.say(regenerate=True)
    assert "Out of memory." in page.notice
    assert "Not enough context." in page.notice
    assert page.turns == [["First", "base says"], ["First", "tuned says"]]
    assert page.prompt == "Half a thought"


def test_regenerate_without_a_conversation_says_what_to_do(page):
    page.say(regenerate=True)
    assert "Write a message first." in page.notice
    assert page.can_send


@pytest.mark.parametrize("where", ["engine", "stream"])
def test_an_unforeseen_failure_is_a_message_and_the_buttons_come_back(page, models, caplog, where):
    if where == "engine":
        page.context.engine.open = lambda target: 1 / 0
    else:
        models.pieces = [(0, Piece("half an", 2, 0.2, 0.1)), (1, ZeroDivisionError("division by zero"))]
    before = page.history
    with caplog.at_level(logging.ERROR):
        page.say("Hello")
    assert "The answers failed" in page.notice
    assert "Send the prompt again" in page.notice
    assert "Traceback" not in page.notice
    assert "Traceback" in caplog.text
    assert (page.history, page.prompt, page.can_send) == (before, "Hello", True)
    assert page.context.stops == {}


def test_a_cleared_sampling_field_has_the_value_that_it_began_with():
    import gradio as gr

    with gr.Blocks():
        tab = compare_tab.build()
    values = dict.fromkeys(tab.settings.components())
    begun = tab.settings.shared_values(values)
    assert begun == {name: field.value for name, field in tab.settings.shared.items()}
    assert begun["seed"] == 0
    assert begun["max_new_tokens"] == 256
    assert tab.settings.shared_values({**values, tab.settings.shared["seed"]: 7})["seed"] == 7
