"""The index of all runs: what it says is what the runs say, and what cannot have changed is not read again."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from studio.jobs import process
from studio.recipe import Recipe
from studio.runs import EventLog, Run, list_runs
from studio.runs.index import RunIndex

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def runs():
    made = [Run.create(Recipe(name=name)) for name in ("queued", "finished", "failed", "interrupted", "stopped")]
    for run in made[1:]:
        run.claim()
        process.write(run.folder / "process.json", {"pid": 2**22 + 1, "start": 1.0, "host": os.uname().nodename})
        log = EventLog(run.events_path)
        log.write("started", max_steps=2)
        log.write("step", step=1, loss=0.5)
        if run.recipe.name != "interrupted":
            log.write(run.recipe.name, what="", fix="", traceback="")
        log.close()
    return made


@pytest.fixture
def counted(monkeypatch):
    """The ids of runs whose status was read."""
    ids = []
    whole = Run.status.fget
    monkeypatch.setattr(Run, "status", property(lambda run: ids.append(run.id) or whole(run)))
    return ids


def long_ago(run):
    """Make a run's files old enough to be trusted."""
    for path in [*run.folder.iterdir(), run.folder]:
        os.utime(path, (time.time() - 60, time.time() - 60))


def test_it_says_what_the_runs_say(runs):
    assert RunIndex().statuses() == {run.id: run.status for run in list_runs()}
    assert RunIndex().summaries() == [run.summary() for run in list_runs()]


def test_runs_are_newest_first(runs):
    assert list(RunIndex().statuses()) == [run.id for run in reversed(runs)]


def test_what_has_not_changed_is_not_read_again(runs, counted):
    for run in runs:
        long_ago(run)
    index = RunIndex()
    index.statuses()
    assert len(counted) == len(runs)
    counted.clear()
    index.statuses()
    assert counted == []


def test_a_run_that_got_a_name_is_listed_with_it_and_changes_the_version(runs):
    index = RunIndex()
    before = index.version()
    assert index.names() == {}
    runs[1].label.changed(name="The good one").write(runs[1].folder)
    assert index.names() == {runs[1].id: "The good one"}
    assert index.version() != before


def test_a_change_too_young_to_be_told_by_its_time_is_looked_at_again(runs, counted):
    index = RunIndex()
    index.statuses()
    counted.clear()
    index.statuses()
    assert runs[0].id in counted


def test_every_change_of_a_status_is_seen(runs):
    index = RunIndex()
    for run in runs:
        long_ago(run)
    index.statuses()
    before = index.version()
    failed = runs[2]
    failed.reopen()
    assert index.statuses()[failed.id] == "queued"
    assert index.version() != before
    failed.claim()
    worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process.write(failed.folder / "process.json", process.describe(worker.pid, []))
    assert index.statuses()[failed.id] == "running"
    worker.kill()
    worker.wait()
    assert index.statuses()[failed.id] == "interrupted"


def test_a_claimed_run_that_never_starts_is_interrupted_in_the_end(runs):
    index, queued = RunIndex(), runs[0]
    queued.claim()
    assert index.statuses()[queued.id] == "queued"
    long_ago(queued)
    assert index.statuses()[queued.id] == "interrupted"


def test_new_runs_come_and_deleted_ones_go(runs):
    index = RunIndex()
    index.statuses()
    new = Run.create(Recipe(name="new"))
    shutil.rmtree(runs[1].folder)
    assert list(index.statuses()) == [new.id, *(run.id for run in reversed(runs) if run is not runs[1])]


def test_an_earlier_look_is_good_enough_for_who_says_so(runs):
    index = RunIndex()
    before = index.statuses()
    Run.create(Recipe(name="new"))
    assert index.statuses(max_age=60.0) == before
    assert len(index.statuses()) == len(before) + 1


def test_another_workspace_has_other_runs(runs, tmp_path, monkeypatch):
    index = RunIndex()
    index.statuses()
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path / "other"))
    assert index.statuses(max_age=60.0) == {}


def test_stray_folders_and_files_are_no_runs(runs, home):
    (home / "runs" / "stray").mkdir()
    (home / "runs" / "note.txt").write_text("x")
    (home / "runs" / ".part").mkdir()
    assert len(RunIndex().statuses()) == len(runs)


@pytest.mark.parametrize("name", ["plain", "", "a: b # c", "'quoted'", "two words " * 7, "päss – wd", "- x", "null"])
def test_the_name_of_a_recipe_is_told_without_reading_all_of_it(name):
    run = Run.create(Recipe(name=name))
    assert run.summary()["recipe"] == run.recipe.name
