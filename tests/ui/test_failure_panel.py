"""A run that went wrong, on the page: its rows and memory with nothing of the data's own markup, and its retry."""

import json

import pytest
from tiny import make_tiny_chat_model

from studio.errors import StudioError
from studio.recipe import Recipe
from studio.runs import EventLog, Run
from studio.runs.feed import Feed
from studio.training.resume import is_resumable
from studio.ui.runs import failure_panel
from studio.ui.runs.texts import state, warnings

OOM = {
    "reason": "out_of_memory",
    "device": "cpu",
    "dtype": "float32",
    "longest_tokens": 200,
    "run_memory_bytes": 190_000_000,
    "estimated_memory_bytes": 440_000_000,
    "available_bytes": 200_000_000,
}
DIVERGED = {"reason": "diverged", "step": 7, "checkpoint": "checkpoints/checkpoint-6"}


class FakeDesk:
    """Takes what is submitted."""

    def __init__(self):
        self.launcher, self.submitted = self, []

    def submit(self, recipe, label):
        self.submitted.append((recipe, label))
        return recipe


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_chat_model(tmp_path_factory.mktemp("models") / "wide", hidden_size=256)


@pytest.fixture
def failed(home, model):
    def make(**fields) -> Run:
        recipe = Recipe.parse({"model": {"id": str(model), "dtype": "float32"}, "train": {"learning_rate": 0.01}})
        run = Run.create(recipe)
        log = EventLog(run.events_path)
        log.write("failed", what="It went wrong.", fix="Mend it.", traceback="", **fields)
        log.close()
        return run

    return make


def shown(run: Run) -> str:
    return state(run, run.status, Feed().look(run))


def test_a_run_out_of_memory_shows_what_it_took_and_what_there_was(failed):
    page = shown(failed(**OOM))
    for part in ("It went wrong.", "190.0 MB", "440.0 MB", "200.0 MB"):
        assert part in page


def test_its_ladder_is_offered_with_what_is_enough_chosen(failed):
    run = failed(**OOM)
    steps, enough = failure_panel.remedies(run, run.status, run.view())
    assert [step.key for step in steps][:3] == ["batch", "checkpointing", "length"]
    assert enough == ["batch"]


def test_a_retry_submits_the_recipe_with_what_was_chosen_and_nothing_else(failed):
    run, context = failed(**OOM), FakeDesk()
    failure_panel.retry(context, run.id, ["checkpointing"])
    ((made, label),) = context.submitted
    assert label.parent == run.id
    assert made.train.gradient_checkpointing
    assert made.train.per_device_train_batch_size == run.recipe.train.per_device_train_batch_size


def test_a_retry_without_a_choice_is_refused(failed):
    with pytest.raises(StudioError, match="Nothing is chosen"):
        failure_panel.retry(FakeDesk(), failed(**OOM).id, [])


def test_rows_are_named_and_their_markup_stays_text(failed):
    rows = [{"row": 1234, "text": "<img src=x onerror=alert(1)>", "loss": None}, {"row": 2, "text": "b", "loss": 3.5}]
    page = shown(failed(**DIVERGED, rows=rows, blamed=True))
    assert "<img" not in page
    assert "&lt;img src=x" in page
    for part in ("1,234", "not a number", "3.5", "step 7", "to blame"):
        assert part in page


def test_a_run_that_left_is_offered_a_lower_rate(failed):
    run = failed(**DIVERGED, rows=[], blamed=False)
    ((step,), enough) = failure_panel.remedies(run, run.status, run.view())
    assert (step.changes, enough) == ({"train.learning_rate": 0.001}, ["learning_rate"])


@pytest.mark.parametrize(("fields", "offered"), [({**DIVERGED, "blamed": False}, False), ({}, True)])
def test_page_06_resume_is_not_offered_to_a_run_that_would_diverge_again(failed, fields, offered):
    run = failed(**fields)
    EventLog(run.events_path).write("started", max_steps=10)
    EventLog(run.events_path).write("failed", what="x", fix="y", **fields)
    assert is_resumable(run, run.status) is offered


@pytest.mark.parametrize("fields", [{**DIVERGED, "blamed": True}, {}], ids=["rows to blame", "another failure"])
def test_where_no_setting_helps_no_retry_is_offered(failed, fields):
    run = failed(**fields)
    assert failure_panel.remedies(run, run.status, run.view()) == ([], [])


def test_a_killed_run_says_that_it_may_have_been_memory_and_offers_the_ladder(home, model):
    from studio.jobs import process

    run = Run.create(Recipe.parse({"model": {"id": str(model), "dtype": "float32"}}))
    process.write(run.folder / "process.json", process.describe(2**22 + 1, []) | {"exit_code": -9})
    log = EventLog(run.events_path)
    log.write("memory", **OOM, held_bytes=0, free_bytes=200_000_000)
    log.write("step", step=1, memory_bytes=195_000_000)
    log.close()
    assert "may have ended it for memory" in shown(run)
    assert failure_panel.remedies(run, run.status, run.view())[0][0].key == "batch"


def test_a_warning_says_at_which_step_and_its_markup_stays_text(failed):
    run = failed()
    with run.events_path.open("a") as file:
        file.write(json.dumps({"time": 1, "kind": "warning", "what": "<b>flat</b>", "fix": "", "step": 1200}) + "\n")
    assert "At step 1,200: &lt;b&gt;flat" in warnings(run.view())
