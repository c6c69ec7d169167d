"""Taking up a run again: its status follows, and nobody can start it twice."""

import os
import subprocess
import sys
import time

import pytest

from studio.errors import StudioError
from studio.jobs import process
from studio.recipe import Recipe
from studio.runs import EventLog, Launcher, Run


@pytest.fixture
def run(home) -> Run:
    """A run whose worker (a process that has ended since) has been started."""
    run = Run.create(Recipe(name="again"))
    assert run.claim()
    process.write(run.folder / "process.json", {"pid": 2**22 + 1, "start": 1.0, "host": os.uname().nodename})
    return run


def write(run: Run, kind: str, **fields) -> None:
    log = EventLog(run.events_path)
    log.write(kind, **fields)
    log.close()


@pytest.mark.parametrize("end", ["stopped", "failed", None])
def test_a_run_that_did_not_finish_goes_back_into_the_queue(run, end):
    write(run, "step", step=3, loss=1.0)
    if end:
        write(run, end, step=3, what="", fix="")
    run.stop()
    assert run.status == end or (end is None and run.status == "interrupted")
    run.reopen()
    assert run.status == "queued"
    assert not run.stopping
    assert not run.claimed
    assert [e["step"] for e in run.events() if e["kind"] == "step"] == [3]


def test_a_reopened_run_is_running_as_soon_as_its_worker_lives(run):
    write(run, "stopped", step=3)
    run.reopen()
    assert run.claim()
    process.write(run.folder / "process.json", process.describe(os.getpid(), ["me"]))
    assert run.status == "running"
    assert run.view().ended is None


@pytest.mark.parametrize("status", ["queued", "running", "finished"])
def test_a_run_that_needs_no_resuming_is_refused_and_left_as_it_is(run, status):
    if status == "finished":
        write(run, "finished", step=3)
    elif status == "running":
        process.write(run.folder / "process.json", process.describe(os.getpid(), ["me"]))
    else:
        (run.folder / "process.json").unlink()
        (run.folder / "claim").unlink()
    before = sorted(p.name for p in run.folder.iterdir())
    with pytest.raises(StudioError, match=f"it is {status}") as caught:
        run.reopen()
    assert caught.value.fix
    assert run.status == status
    assert sorted({p.name for p in run.folder.iterdir()} - {"reopen.lock"}) == before


def test_of_two_that_reopen_a_run_the_second_is_refused(run):
    write(run, "stopped", step=3)
    run.reopen()
    with pytest.raises(StudioError, match="it is queued"):
        run.reopen()
    assert run.claim()
    assert not run.claim()


def test_reopening_waits_for_a_worker_that_is_about_to_end(run):
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)"])
    process.write(run.folder / "process.json", process.describe(worker.pid, ["old"]))
    write(run, "stopped", step=3)
    start = time.monotonic()
    run.reopen()
    assert time.monotonic() - start > 0.3
    assert worker.wait(timeout=5) == 0
    assert run.status == "queued"


def test_a_run_that_was_stopped_in_the_queue_can_be_taken_up_again(home):
    run = Run.create(Recipe(name="again"))
    run.stop()
    Launcher().tick()
    assert run.status == "stopped"
    run.reopen()
    assert run.status == "queued"


def test_a_worker_that_cannot_be_started_leaves_a_failed_run(home, monkeypatch):
    from studio.runs import launcher

    def refuse(*_, **__):
        raise OSError("no memory")

    monkeypatch.setattr(launcher.subprocess, "Popen", refuse)
    run = Run.create(Recipe(name="again"))
    assert run.claim()
    with pytest.raises(StudioError, match="no memory"):
        launcher.start_worker(run)
    assert run.status == "failed"


def test_a_finished_run_is_put_back_only_if_it_is_continued(run):
    write(run, "finished", step=3)
    recipe = run.recipe
    with pytest.raises(StudioError) as caught:
        run.reopen(recipe)
    assert caught.value.code == "not_resumable"
    assert run.status == "finished"
    run.reopen(recipe, continued=True)
    assert run.status == "queued"
