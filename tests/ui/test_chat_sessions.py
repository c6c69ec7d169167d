"""What each pane remembers: editing, settings of its own, probabilities, and panes that end at their own time."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from test_compare_answers import Page, context, end, failure, models, page  # noqa: F401  fixtures

from studio.errors import StudioError
from studio.inference import Piece
from studio.ui.compare import chat_sessions as conversation
from studio.ui.compare import stream_answers as talking
from studio.ui.idle_models import IDLE_SECONDS, IdleModelUnloader

TALK = [
    [{"role": "user", "content": "1"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "2"}],
    [{"role": "user", "content": "1"}, {"role": "user", "content": "2"}, {"role": "assistant", "content": "b"}],
]


def contents(panes) -> list[list[str]]:
    return [[turn["content"] for turn in turns] for turns in panes]


def test_a_prompt_that_is_changed_cuts_every_history_where_it_stood():
    assert contents(conversation.asked_from(TALK, 1, "new")) == [["1", "a", "new"], ["1", "new"]]
    assert contents(conversation.asked_from(TALK, 0, "new")) == [["new"], ["new"]]


def test_an_answer_that_is_changed_is_the_model_s_own_from_then_on():
    assert contents(conversation.corrected(TALK, 0, 0, "better")) == [["1", "better"], ["1"]]
    with pytest.raises(StudioError, match="no such answer"):
        conversation.corrected(TALK, 1, 0, "there is none")
    with pytest.raises(StudioError, match="no such prompt"):
        conversation.corrected(TALK, 0, 5, "text")


def test_a_changed_prompt_is_answered_by_all_and_a_changed_answer_asks_nobody(page, models):  # noqa: F811
    page.say("First")
    page.say("Second")
    for event in (
        {"role": "user", "pane": "0", "prompt": "0", "text": "Instead"},
        {"role": "assistant", "pane": "1", "prompt": "0", "text": "Better"},
    ):
        for updates in talking.edited(page.context, "browser", page.question, event):
            page.take(updates)
    assert models.heard[-1] == [["Instead"], ["Instead"]]
    assert page.turns == [["Instead", "base says"], ["Instead", "Better"]]


@pytest.mark.parametrize("event", [{}, {"role": "user", "prompt": "9", "text": "x"}, {"role": "user", "prompt": "0"}])
def test_a_change_that_fits_nothing_says_so_and_leaves_the_history(page, event):  # noqa: F811
    page.say("First")
    before = page.history
    for updates in talking.edited(page.context, "browser", page.question, event):
        page.take(updates)
    assert page.history == before and "message bad" in page.notice


def test_a_pane_has_the_settings_for_all_unless_it_has_its_own(page, models):  # noqa: F811
    own = ({"temperature": "0.5", "seed": ""}, {"temperature": "", "system": "Be brief."})
    list(talking.talk(page.context, "browser", replace(page.question, prompt="Hi", own=own, system="Be kind.")))
    assert [sampling.temperature for sampling in models.settings[-1]] == [0.5, 0.0]
    assert models.heard[-1] == [["Be kind.", "Hi"], ["Be brief.", "Hi"]]


@pytest.mark.parametrize("value", ["much", "nan", "-1", "1e999"])
def test_a_setting_that_is_no_sound_number_is_refused_before_anything_is_asked(page, models, value):  # noqa: F811
    own = ({"temperature": value},)
    for updates in talking.talk(page.context, "browser", replace(page.question, prompt="Hi", own=own)):
        page.take(updates)
    assert "temperature" in page.notice and models.heard == []


def test_one_pane_is_stopped_while_the_other_goes_on(page, models):  # noqa: F811
    models.pieces = [(0, Piece("a", 1, 0.1, 0.1)), (1, Piece("b", 1, 0.1, 0.1)), (0, end("x")), (1, end("c"))]
    for step, _ in enumerate(page.answers("Hello")):
        if step == 1:
            page.context.stops["browser"].stop(0)
    assert page.turns == [["Hello", "a"], ["Hello", "bc"]]


def test_only_the_newest_answer_keeps_its_probabilities(page, models):  # noqa: F811
    models.pieces = [(0, replace(end("yes"), log_probability=-0.5)), (1, end("no"))]
    page.say("First")
    assert json.loads(page.history)[0][1]["odds"] == [[3, -50]]
    page.say("Second")
    first, second = (turn for turn in json.loads(page.history)[0] if turn["role"] == "assistant")
    assert "odds" not in first and second["odds"] == [[3, -50]]


def test_three_panes_each_have_a_history(page, models):  # noqa: F811
    models.pieces = [(2, end("three")), (0, failure()), (1, end("two"))]
    question = replace(page.question, names=("base", "tuned", "tuned"), prompt="Hi")
    for updates in talking.talk(page.context, "browser", question):
        page.take(updates)
    assert page.turns == [["Hi"], ["Hi", "two"], ["Hi", "three"]]


class Engine:
    """One idle model in memory."""

    def __init__(self, idle: float):
        self.entries = [{"name": "tiny", "bytes": 10**8, "idle": idle, "targets": []}]

    def loaded(self):
        return self.entries

    def release_idle(self, seconds: float = 0.0):
        gone = [entry for entry in self.entries if entry["idle"] >= seconds]
        self.entries = [entry for entry in self.entries if entry not in gone]
        return gone


def caretaker(monkeypatch, idle: float = 100.0, free: int = 0) -> tuple[IdleModelUnloader, Engine]:
    from types import SimpleNamespace

    engine = Engine(idle)
    keeper = IdleModelUnloader(SimpleNamespace(opened_engine=engine, device="cpu"), lambda: {"free_bytes": free})
    monkeypatch.setattr(keeper, "_needed", lambda run: 1000)
    return keeper, engine


def a_run(device: str = "auto"):
    from types import SimpleNamespace

    return SimpleNamespace(id="a-run", recipe=SimpleNamespace(train=SimpleNamespace(device=device)))


def test_a_training_run_that_needs_the_memory_gets_it_and_the_page_says_so(monkeypatch):
    keeper, engine = caretaker(monkeypatch, free=999)
    keeper.make_room(a_run())
    assert engine.loaded() == []
    assert "make room for the training of a-run" in keeper.line()


@pytest.mark.parametrize(("free", "device"), [(1000, "auto"), (0, "cuda")])
def test_a_run_with_room_enough_or_on_another_device_leaves_the_models(monkeypatch, free, device):
    keeper, engine = caretaker(monkeypatch, free=free)
    keeper.make_room(a_run(device))
    assert len(engine.loaded()) == 1


def test_a_model_goes_when_it_was_idle_for_the_time_that_is_shown(monkeypatch):
    keeper, engine = caretaker(monkeypatch, idle=IDLE_SECONDS - 30)
    assert "goes in 30 s without use" in keeper.line()
    keeper.look()
    assert len(engine.loaded()) == 1
    engine.entries[0]["idle"] = float(IDLE_SECONDS)
    keeper.look()
    assert "released; loaded when asked" in keeper.line() and engine.loaded() == []
