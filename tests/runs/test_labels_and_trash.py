"""What a person says of a run, and runs that were deleted: kept until the trash is emptied."""

import os

import pytest

from studio.errors import StudioError
from studio.jobs import process
from studio.recipe import Recipe
from studio.runs import EventLog, Run, list_runs, trash
from studio.runs.label import Label

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def run() -> Run:
    made = Run.create(Recipe(name="a"))
    log = EventLog(made.events_path)
    log.write("stopped", step=0)
    log.close()
    return made


def test_words_are_kept_tidied(run):
    run.label.changed(name="  my \n run ", note=" so-so ", tags=("x", " x", "", "y")).write(run.folder)
    assert run.label == Label("my run", "so-so", ("x", "y"))


@pytest.mark.parametrize("words", [{"name": "a" * 81}, {"note": "a" * 4001}, {"tags": ("a" * 41,)}])
def test_words_that_are_too_long_are_refused(words):
    with pytest.raises(StudioError):
        Label().changed(**words)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"tags": 3}', "\x00"])
def test_a_label_that_is_none_is_an_empty_one(run, content):
    (run.folder / "label.json").write_text(content)
    assert run.label == Label()


def test_a_deleted_run_is_gone_and_comes_back_whole(run):
    trash.delete(run)
    assert list_runs() == []
    assert [deleted.id for deleted in trash.deleted()] == [run.id]
    assert trash.restore(run.id).status == "stopped"
    assert trash.deleted() == []
    assert [found.id for found in list_runs()] == [run.id]


def test_the_trash_is_emptied_for_good(run):
    trash.delete(run)
    assert trash.empty() == 1
    assert trash.deleted() == []
    with pytest.raises(StudioError, match="in the trash"):
        trash.restore(run.id)


def test_a_live_run_is_not_deleted(run):
    queued = Run.create(Recipe(name="b"))
    with pytest.raises(StudioError, match="Cancel it first"):
        trash.delete(queued)
    process.write(run.folder / "process.json", process.describe(os.getpid(), ["me"]))
    with pytest.raises(StudioError, match="has not ended"):
        trash.delete(run)


@pytest.mark.parametrize("name", ["..", "a/b", "", "."])
def test_nothing_outside_the_workspace_is_restored(name):
    with pytest.raises(StudioError):
        trash.restore(name)
