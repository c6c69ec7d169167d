"""The commands that do something with runs that are there."""

import json

import pytest
from typer.testing import CliRunner

from studio.cli import main
from studio.recipe import Recipe
from studio.runs import EventLog, Run, list_runs, queue

pytestmark = pytest.mark.usefixtures("home")


def call(*arguments: str):
    return CliRunner().invoke(main.app, list(map(str, arguments)))


@pytest.fixture
def ended() -> Run:
    run = Run.create(Recipe(name="ended"))
    log = EventLog(run.events_path)
    log.write("stopped", step=3)
    log.close()
    return run


def test_a_queued_run_is_asked_to_pause_and_to_stop():
    run = Run.create(Recipe(name="a"))
    assert call("pause", run.id).exit_code == 0
    assert run.ending == "paused"
    assert call("stop", run.id).exit_code == 0
    assert run.ending == "stopped"


@pytest.mark.parametrize("command", ["pause", "stop", "cancel"])
def test_a_run_that_has_ended_is_left_alone(ended, command):
    result = call(command, ended.id)
    assert result.exit_code == 1
    assert "it is stopped" in result.stderr
    assert ended.ending is None


@pytest.fixture
def launched(monkeypatch):
    """The runs that a command would have started."""
    found = []
    monkeypatch.setattr(main, "_launch_and_follow", found.append)
    return found


def test_a_run_that_ran_out_of_memory_is_repeated_with_less(launched, tiny_model):
    recipe = Recipe.parse({"model": {"id": str(tiny_model)}, "train": {"per_device_train_batch_size": 4}})
    run = Run.create(recipe.check())
    log = EventLog(run.events_path)
    told = {"device": "cpu", "dtype": "float32", "longest_tokens": 256}
    log.write("failed", reason="out_of_memory", what="No memory.", fix="", traceback="", **told)
    log.close()
    result = call("again", run.id, "--fit")
    assert result.exit_code == 0, result.stderr
    (made,) = launched
    train = made.recipe.train
    assert train.per_device_train_batch_size < 4
    assert train.per_device_train_batch_size * train.gradient_accumulation_steps == 4
    assert "the effective batch stays 4" in result.stderr
    assert made.label.parent == run.id


def test_a_run_that_ended_for_another_reason_has_nothing_to_fit(launched, ended):
    result = call("again", ended.id, "--fit")
    assert result.exit_code == 1
    assert "did not run out of memory" in result.stderr
    assert launched == []


def test_words_are_written_and_shown(ended):
    call("label", ended.id, "--name", "The one", "--tag", "x", "--tag", "y")
    assert json.loads(call("label", ended.id).stdout) == {
        "name": "The one",
        "note": "",
        "tags": ["x", "y"],
        "parent": "",
    }


def test_the_queue_is_listed_and_changed():
    first, second = Run.create(Recipe(name="a")), Run.create(Recipe(name="b"))
    assert [line.split()[1] for line in call("queue").stdout.splitlines()] == [first.id, second.id]
    call("queue", second.id, "--move", "-1")
    assert [run.id for run in queue.waiting()] == [second.id, first.id]


def test_a_run_goes_to_the_trash_and_back(ended):
    assert call("delete", ended.id).exit_code == 0
    assert list_runs() == []
    assert call("trash").stdout.split() == [ended.id]
    assert call("trash", "--restore", ended.id).stdout.split() == [ended.id]
    assert [run.id for run in list_runs()] == [ended.id]
    call("delete", ended.id)
    assert "Deleted for good: 1 runs." in call("trash", "--empty").stderr
    assert call("trash").stdout == ""
