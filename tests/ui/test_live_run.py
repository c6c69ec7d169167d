"""What a page that shows a run is told by itself: each thing once, as text, and when Gradio's own parts must follow."""

import json

import gradio as gr
import pytest

from studio.recipe import Recipe
from studio.runs import EventLog, Launcher, Run
from studio.ui.context import AppContext
from studio.ui.live import live, slot
from studio.ui.runs import tab as runs_tab


@pytest.fixture
def context(home):
    return AppContext(Launcher())


@pytest.fixture
def tab(context):
    with gr.Blocks():
        return runs_tab.build(context)


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


def asked(context, run, seen="", have=None):
    return runs_tab.follow(context, {"value": run and run.id, "seen": seen, "have": have})


def seen_by(updates, tab) -> str:
    return updates[tab.seen]


def test_what_has_been_told_is_not_told_again(context, tab, run):
    write(run, ("step", {"step": 1, "loss": 1.25}))
    first = asked(context, run)
    assert "1 of 4" in first["parts"]["run-numbers"]
    assert "&lt;b&gt;y" in first["parts"]["run-warnings"]
    again = asked(context, run, have=first["have"])
    assert "parts" not in again
    write(run, ("step", {"step": 2, "loss": 1.0}))
    later = asked(context, run, have=again["have"])
    assert "2 of 4" in later["parts"]["run-numbers"]


def test_a_step_is_no_news_for_gradio_and_an_end_is(context, tab, run):
    write(run, ("step", {"step": 1, "loss": 1.25}))
    seen = seen_by(runs_tab.show(context, tab, run.id, None), tab)
    assert not asked(context, run, seen)["news"]
    write(run, ("step", {"step": 2, "loss": 1.0}))
    assert not asked(context, run, seen)["news"]
    assert runs_tab.show(context, tab, run.id, seen) == {}
    write(run, ("finished", {"step": 2}))
    context.index.statuses()
    told = asked(context, run, seen)
    assert told["news"] and "Finished" in told["parts"]["run-state"]
    shown = runs_tab.show(context, tab, run.id, seen)
    assert not asked(context, run, seen_by(shown, tab), told["have"])["news"]


def test_the_first_point_brings_the_charts(context, tab, run):
    seen = seen_by(runs_tab.show(context, tab, run.id, None), tab)
    write(run, ("step", {"step": 1, "loss": 1.25}))
    assert asked(context, run, seen)["news"]
    assert runs_tab.show(context, tab, run.id, seen)[tab.chart.card]["visible"]


def test_only_a_choice_sets_which_run_is_followed(context, tab, run):
    """A look at an old run that answers late must not turn the page back to it."""
    chosen = runs_tab.show(context, tab, run.id, None)
    assert chosen[tab.state] == run.id
    write(run, ("finished", {"step": 2}))
    context.index.statuses()
    assert tab.state not in runs_tab.show(context, tab, run.id, seen_by(chosen, tab))


def test_a_page_that_showed_another_run_gets_all_parts(context, tab, run):
    other = Run.create(Recipe())
    other.claim()
    seen = seen_by(runs_tab.show(context, tab, other.id, None), tab)
    have = asked(context, other, seen)["have"]
    told = asked(context, run, seen, have)
    assert told["news"] and told["parts"]


def test_no_run_and_a_run_that_is_gone(context, tab, run):
    told = asked(context, None)
    assert "No run yet" in told["parts"]["run-state"] and told["news"]
    assert not asked(context, None, json.dumps({}))["news"]
    gone = runs_tab.follow(context, {"value": "20200101-000000-nothing", "seen": "", "have": None})
    assert "alert" in gone["parts"]["run-state"] and not gone.get("news")
    assert runs_tab.show(context, tab, "20200101-000000-nothing", "{}") == {}


STRANGE = [{}, {"value": "../../etc", "seen": "[1", "have": 7}, {"value": ["x"], "seen": {}}]


@pytest.mark.parametrize("asking", STRANGE)
def test_a_strange_request_gets_an_answer(context, asking):
    assert runs_tab.follow(context, asking)["parts"]["run-state"]


def test_an_element_asks_with_its_own_interval_and_has_a_place():
    with gr.Blocks():
        element = live(lambda request: {"parts": {"x": str(request)}}, 2.5, slot("<i>first</i>"), elem_id="x")
    assert "SECONDS = 2.5;" in element.js_on_load
    assert "<i>first</i>" in element.html_template and "data-live" in element.html_template
