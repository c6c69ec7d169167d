"""Resume and continue on the Runs tab: only what is there is offered, and what has changed is asked about first."""

import json

import gradio as gr
import pytest
from lessons import done, lesson, stop_after, write_rows

from studio.recipe import Recipe
from studio.runs import EventLog, Launcher, Run
from studio.training.resume import is_resumable
from studio.ui.context import AppContext
from studio.ui.runs import resume_panel, texts
from studio.ui.runs import tab as runs_tab

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "rows.jsonl")


@pytest.fixture
def panel():
    with gr.Blocks():
        return resume_panel.build(gr.Button())


@pytest.fixture
def paused(tiny_model, rows, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2, "pause")
        return done(lesson(tiny_model, rows), "paused")


def tried(panel, run, tokens=None, settings=None):
    return resume_panel._tried(panel, run.id, tokens or {}, settings)


def test_page_15_a_run_that_was_cancelled_before_its_first_checkpoint_offers_no_resume(panel):
    run = Run.create(Recipe())
    assert run.claim()
    for kind, fields in (("started", {"max_steps": 9}), ("step", {"step": 1}), ("stopped", {"what": "Cancelled."})):
        EventLog(run.events_path).write(kind, **fields)
    assert not is_resumable(run, "stopped")
    assert resume_panel.updates(panel, run, "stopped")[panel.resume]["visible"] is False
    look = AppContext(Launcher()).feed.look(run)
    assert "It has no checkpoint to resume from" in texts.state(run, "stopped", look)


def test_page_15_a_paused_run_says_from_where_it_goes_on_and_after_its_checkpoints_are_gone_that_it_cannot(
    panel, paused
):
    context = AppContext(Launcher())
    first = runs_tab.follow(context, {"value": paused.id, "seen": ""})
    assert "step 2" in first["parts"]["run-state"]
    assert resume_panel.updates(panel, paused, "paused")[panel.resume]["value"] == "Resume"
    for checkpoint in paused.checkpoints_dir.iterdir():
        checkpoint.rename(paused.folder / checkpoint.name)
    later = runs_tab.follow(context, {"value": paused.id, "seen": "", "have": first["have"]})
    assert "first step" in later["parts"]["run-state"]
    assert resume_panel.updates(panel, paused, "paused")[panel.resume]["value"] == "Start again"
    asked = tried(panel, paused)
    assert asked[panel.changes]["visible"]
    assert paused.status == "paused"


def test_results_04_the_page_asks_about_changes_and_goes_on_with_those_that_were_shown(panel, paused, rows):
    write_rows(rows, 14)
    asked = tried(panel, paused)
    assert asked[panel.changes]["visible"] and asked[panel.accept]["visible"]
    assert paused.status == "paused"
    pending = json.loads(asked[panel.pending])
    assert set(pending["tokens"]) == {"data"}
    write_rows(rows, 15)  # changed once more while the person was reading
    assert tried(panel, paused, pending["tokens"])[panel.changes]["visible"]
    assert paused.status == "paused"
    pending = json.loads(tried(panel, paused)[panel.pending])
    assert tried(panel, paused, pending["tokens"])[panel.resume]["visible"] is False
    assert paused.status == "queued"


def test_results_05_the_page_offers_no_way_around_what_cannot_change(panel, paused):
    recipe = paused.recipe
    recipe.train.optim = "sgd"
    recipe.save(paused.folder / "recipe.yaml")
    asked = tried(panel, paused)
    assert asked[panel.changes]["visible"] and not asked[panel.accept]["visible"]
    assert "train.optim" in asked[panel.told]


def test_results_11_the_page_says_that_a_dataset_is_gone(panel, paused, rows):
    rows.unlink()
    told = tried(panel, paused)
    assert str(rows) in told[panel.told] and not told[panel.accept]["visible"]
    assert paused.status == "paused"


def test_results_12_a_finished_run_is_continued_from_the_page_which_tells_the_rate_before(panel, tiny_model, rows):
    run = done(lesson(tiny_model, rows, max_steps=2))
    shown = resume_panel.updates(panel, run, "finished")
    assert shown[panel.card]["visible"] and shown[panel.go]["interactive"]
    assert shown[panel.resume]["visible"] is False
    told = resume_panel._preview(panel, run, 3, "steps", "restart", 0.004)
    assert "0.004" in told[panel.preview] and "step 5" in told[panel.preview]
    refused = resume_panel._preview(panel, run, 0, "steps", "restart", None)
    assert refused[panel.go]["interactive"] is False
    tried(panel, run, settings=[3, "steps", "restart", 0.004])
    assert (run.status, run.recipe.train.max_steps, run.recipe.train.learning_rate) == ("queued", 5, 0.004)
    again = tried(panel, run, settings=[3, "steps", "restart", 0.004])  # a second browser
    assert again[panel.changes]["visible"]
    assert run.recipe.train.max_steps == 5


def test_results_12_without_checkpoints_the_page_says_what_to_do_instead(panel, tiny_model, rows):
    run = done(lesson(tiny_model, rows, max_steps=1, save_steps=0))
    for checkpoint in run.checkpoints_dir.iterdir():
        checkpoint.rename(run.folder / checkpoint.name)
    shown = resume_panel.updates(panel, run, "finished")
    assert shown[panel.go]["interactive"] is False
    assert f"model.adapter={run.id}" in shown[panel.preview]


@pytest.fixture
def stopped(tiny_model, rows, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        return done(lesson(tiny_model, rows), "stopped")


def test_results_12_the_preview_that_is_shown_is_that_of_the_settings_that_are_shown(panel, stopped):
    shown = resume_panel.updates(panel, stopped, "stopped")
    values = [shown[part]["value"] for part in panel.settings]
    assert values == [1, "epochs", "extend", 0]
    assert shown[panel.preview] == resume_panel._preview(panel, stopped, *values)[panel.preview]
    assert resume_panel.updates(panel, stopped, "finished")[panel.schedule]["value"] == "restart"


def test_results_12_news_of_the_same_run_leave_what_was_typed_and_its_preview(panel, stopped):
    context, tab = AppContext(Launcher()), None
    with gr.Blocks():
        tab = runs_tab.build(context)
    first = runs_tab.show(context, tab, stopped.id, "")
    touched = {*tab.resume.settings, tab.resume.preview}
    assert touched <= set(first)
    known = json.loads(first[tab.seen]) | {"runs": "news"}
    later = runs_tab.show(context, tab, stopped.id, json.dumps(known))
    assert tab.resume.card in later and not touched & set(later)


def test_results_12_of_a_continuation_that_was_cancelled_or_failed_the_earlier_model_is_named(panel):
    run = Run.create(Recipe())
    assert run.claim()
    log = EventLog(run.events_path)
    log.write("started", max_steps=9)
    log.write("stopped", what="Cancelled.")
    context = AppContext(Launcher())
    assert "earlier model" not in texts.state(run, "stopped", context.feed.look(run))
    run.model_dir.mkdir()
    (run.model_dir / "adapter_config.json").write_text("{}")
    assert "earlier model" in texts.state(run, "stopped", context.feed.look(run))
    log.write("failed", what="It went wrong.", fix="Mend it.")
    log.close()
    assert "earlier model" in texts.state(run, "failed", context.feed.look(run))
