"""What a page that shows a run is told by itself: each thing once, as text, and when Gradio's own parts must follow."""

import json

import gradio as gr
import pytest

from studio.recipe import Recipe
from studio.runs import EventLog, Launcher, Run
from studio.ui import runs_tab
from studio.ui.desk import Desk
from studio.ui.live import live, slot


@pytest.fixture
def desk(home):
    return Desk(Launcher())


@pytest.fixture
def tab(desk):
    with gr.Blocks():
        return runs_tab.build(desk)


@pytest.fixture
def run(home):
    run = Run.create(Recipe())
    assert run.claim()  # no launcher starts it
    write(run, ("started", {"max_steps": 4, "choices": [{"what": "x", "chosen": "<b>y</b>", "by": "", "why": ""}]}))
    return run


def write(run: Run, *events: tuple[str, dict]) -> None:
    log = EventLog(run.events_path)
    for kind, fields in events:
        log.write(kind, **fields)
    log.close()


def asked(desk, run, seen="", have=None):
    return runs_tab.follow(desk, {"value": run and run.id, "seen": seen, "have": have})


def seen_by(updates, tab) -> str:
    return updates[tab.seen]


def test_what_has_been_told_is_not_told_again(desk, tab, run):
    write(run, ("step", {"step": 1, "loss": 1.25}))
    first = asked(desk, run)
    assert "1 of 4" in first["parts"]["run-numbers"]
    assert "&lt;b&gt;y" in first["parts"]["run-warnings"]
    again = asked(desk, run, have=first["have"])
    assert "parts" not in again
    write(run, ("step", {"step": 2, "loss": 1.0}))
    later = asked(desk, run, have=again["have"])
    assert "2 of 4" in later["parts"]["run-numbers"]


def test_a_step_is_no_news_for_gradio_and_an_end_is(desk, tab, run):
    write(run, ("step", {"step": 1, "loss": 1.25}))
    seen = seen_by(runs_tab.show(desk, tab, run.id, None), tab)
    assert not asked(desk, run, seen)["news"]
    write(run, ("step", {"step": 2, "loss": 1.0}))
    assert not asked(desk, run, seen)["news"]
    assert runs_tab.show(desk, tab, run.id, seen) == {}
    write(run, ("finished", {"step": 2}))
    desk.index.statuses()
    told = asked(desk, run, seen)
    assert told["news"] and "Finished" in told["parts"]["run-state"]
    shown = runs_tab.show(desk, tab, run.id, seen)
    assert not asked(desk, run, seen_by(shown, tab), told["have"])["news"]


def test_the_first_point_brings_the_charts(desk, tab, run):
    seen = seen_by(runs_tab.show(desk, tab, run.id, None), tab)
    write(run, ("step", {"step": 1, "loss": 1.25}))
    assert asked(desk, run, seen)["news"]
    assert runs_tab.show(desk, tab, run.id, seen)[tab.chart.card]["visible"]


def test_only_a_choice_sets_which_run_is_followed(desk, tab, run):
    """A look at an old run that answers late must not turn the page back to it."""
    chosen = runs_tab.show(desk, tab, run.id, None)
    assert chosen[tab.state] == run.id
    write(run, ("finished", {"step": 2}))
    desk.index.statuses()
    assert tab.state not in runs_tab.show(desk, tab, run.id, seen_by(chosen, tab))


def test_a_page_that_showed_another_run_gets_all_parts(desk, tab, run):
    other = Run.create(Recipe())
    other.claim()
    seen = seen_by(runs_tab.show(desk, tab, other.id, None), tab)
    have = asked(desk, other, seen)["have"]
    told = asked(desk, run, seen, have)
    assert told["news"] and told["parts"]


def test_no_run_and_a_run_that_is_gone(desk, tab, run):
    told = asked(desk, None)
    assert "No run yet" in told["parts"]["run-state"] and told["news"]
    assert not asked(desk, None, json.dumps({}))["news"]
    gone = runs_tab.follow(desk, {"value": "20200101-000000-nothing", "seen": "", "have": None})
    assert "alert" in gone["parts"]["run-state"] and not gone.get("news")
    assert runs_tab.show(desk, tab, "20200101-000000-nothing", "{}") == {}


STRANGE = [{}, {"value": "../../etc", "seen": "[1", "have": 7}, {"value": ["x"], "seen": {}}]


@pytest.mark.parametrize("asking", STRANGE)
def test_a_strange_request_gets_an_answer(desk, asking):
    assert runs_tab.follow(desk, asking)["parts"]["run-state"]


def test_an_element_asks_with_its_own_interval_and_has_a_place():
    with gr.Blocks():
        element = live(lambda request: {"parts": {"x": str(request)}}, 2.5, slot("<i>first</i>"), elem_id="x")
    assert "SECONDS = 2.5;" in element.js_on_load
    assert "<i>first</i>" in element.html_template and "data-live" in element.html_template
