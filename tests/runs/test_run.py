"""A run is a folder: made whole, opened by its name, and its status is what its files and its process say."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest

from studio.errors import StudioError
from studio.jobs import process
from studio.recipe import Recipe
from studio.runs import EventLog, Run, list_runs
from studio.runs.events import TERMINAL

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def run():
    return Run.create(Recipe(name="claim"))


@pytest.fixture
def sleeper():
    """A process of ours that lives until the test ends."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield child
    child.kill()
    child.wait()


def works_on(run: Run, pid: int, **changes) -> None:
    run.claim()
    process.write(run.folder / "process.json", process.describe(pid, ["worker"]) | changes)


def write(run: Run, *kinds: str, **fields) -> None:
    log = EventLog(run.events_path)
    for kind in kinds:
        log.write(kind, **fields)
    log.close()


def age(run: Run, seconds: float) -> None:
    past = time.time() - seconds
    os.utime(run.folder / "claim", (past, past))


def test_a_new_run_is_queued_and_has_its_recipe(run):
    assert run.status == "queued"
    assert run.recipe.name == "claim"
    assert run.events() == []
    assert not run.has_model


def test_a_new_run_keeps_nothing_that_another_run_resolved():
    recipe = Recipe.parse({"resolved": {"device": "CPU"}})
    assert Run.create(recipe).recipe.resolved is None


def test_a_runs_folder_appears_whole_or_not_at_all(home, monkeypatch):
    def fail(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Recipe, "save", fail)
    with pytest.raises(StudioError, match="No space left"):
        Run.create(Recipe())
    assert list_runs() == []


def test_a_recipe_with_problems_makes_no_run():
    with pytest.raises(StudioError):
        Run.create(Recipe.parse({"train": {"learning_rate": -1}}))
    assert list_runs() == []


def test_the_name_of_a_recipe_makes_no_path():
    run = Run.create(Recipe(name="../../etc/päss wd\n"))
    assert Run.open(run.id).id == run.id
    assert [r.id for r in list_runs()] == [run.id]


@pytest.mark.parametrize("id", ["..", ".", "", "a/b", "/etc", "..\\x", ".hidden", "a\n", "x" * 300, "nothing"])
def test_an_id_that_is_no_runs_name_is_refused(run, id):
    with pytest.raises(StudioError):
        Run.open(id)


def test_a_folder_without_a_recipe_is_no_run(home):
    (home / "runs" / "stray").mkdir(parents=True)
    with pytest.raises(StudioError, match="no run 'stray'"):
        Run.open("stray")
    assert list_runs() == []


def test_runs_are_listed_newest_first():
    made = [Run.create(Recipe(name=name)) for name in ("a", "b")]
    assert {r.id for r in list_runs()} == {r.id for r in made}
    assert [r.id for r in list_runs()] == sorted((r.id for r in made), reverse=True)


def test_a_run_whose_worker_lives_is_running(run, sleeper):
    works_on(run, sleeper.pid)
    assert run.status == "running"


def test_a_run_whose_worker_has_died_without_an_end_is_interrupted(run, sleeper):
    works_on(run, sleeper.pid)
    write(run, "started", "step", step=1)
    sleeper.kill()
    sleeper.wait()
    assert run.status == "interrupted"


def test_a_run_whose_worker_is_a_zombie_is_interrupted(run):
    child = subprocess.Popen([sys.executable, "-c", ""])
    works_on(run, child.pid)
    deadline = time.monotonic() + 20
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        assert run.status == "interrupted"
    finally:
        child.wait()


def test_another_process_with_the_pid_of_the_worker_does_not_count(run, sleeper):
    works_on(run, sleeper.pid, start=psutil.Process(sleeper.pid).create_time() - 60)
    assert run.status == "interrupted"


def test_a_worker_on_another_machine_does_not_count(run, sleeper):
    works_on(run, sleeper.pid, host="not-" + socket.gethostname())
    assert run.status == "interrupted"


@pytest.mark.parametrize("kind", TERMINAL)
def test_a_terminal_event_wins_over_a_worker_that_still_lives(run, sleeper, kind):
    works_on(run, sleeper.pid)
    write(run, kind)
    assert run.status == kind


def test_an_event_after_the_terminal_one_reopens_the_run(run, sleeper):
    write(run, "stopped")
    works_on(run, sleeper.pid)
    write(run, "started")
    assert run.status == "running"


def test_a_run_that_was_claimed_just_now_is_still_queued(run):
    run.claim()
    assert run.status == "queued"


def test_a_run_whose_worker_never_appeared_is_interrupted(run):
    run.claim()
    age(run, 60)
    assert run.status == "interrupted"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null"])
def test_a_broken_process_file_is_as_good_as_none(run, content):
    (run.folder / "process.json").write_text(content)
    assert run.status == "queued"


@pytest.mark.parametrize("content", [{"pid": "x"}, {"pid": -1}, {"pid": None, "start": None}, {"pid": 1 << 80}])
def test_a_process_file_that_describes_no_process_is_interrupted(run, content):
    (run.folder / "process.json").write_text(json.dumps({"start": 0.0, "host": socket.gethostname()} | content))
    assert run.status == "interrupted"


def test_of_many_claims_at_once_one_is_granted(run):
    granted, start = [], threading.Barrier(8)

    def claim():
        start.wait()
        granted.append(run.claim())

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(granted) == [False] * 7 + [True]


def test_events_are_read_from_an_offset(run):
    write(run, "started")
    size = run.events_path.stat().st_size
    write(run, "step", step=1)
    assert [e["kind"] for e in run.events()] == ["started", "step"]
    assert [e["kind"] for e in run.events(since=size)] == ["step"]


def test_a_summary_tells_of_the_first_start_and_the_last_step(run):
    write(run, "started", max_steps=9)
    write(run, "step", step=1, loss=2.0)
    write(run, "step", step=2, loss=None)
    write(run, "stopped", step=2)
    summary = run.summary()
    events = run.events()
    assert summary == {
        "id": run.id,
        "status": "stopped",
        "recipe": "claim",
        "step": 2,
        "max_steps": 9,
        "loss": 2.0,
        "started": events[0]["time"],
        "ended": events[-1]["time"],
    }


def test_a_summary_of_a_long_log_still_knows_its_step(run):
    write(run, "started", max_steps=9)
    write(run, "step", step=5, loss=1.0)
    for _ in range(3):
        write(run, "sample", output="word " * 10_000)
    assert run.summary()["step"] == 5
    assert run.summary()["loss"] == 1.0


def test_a_summary_survives_a_line_that_is_no_event(run):
    run.events_path.write_text('7\n"kind"\n{"time": 1, "kind": "started", "max_steps": 3}\n')
    assert run.summary()["max_steps"] == 3


def test_a_queued_run_has_an_empty_summary(run):
    assert run.summary()["started"] is None
    assert run.summary()["step"] == 0


@pytest.mark.parametrize("kind", ["stopped", "failed"])
def test_a_run_that_ended_early_can_be_queued_again(run, kind):
    run.claim()
    run.stop()
    write(run, kind)
    run.reopen()
    assert run.status == "queued"
    assert not run.stopping
    assert run.claim()


def test_an_interrupted_run_can_be_queued_again(run):
    run.claim()
    age(run, 60)
    run.reopen()
    assert run.status == "queued"


def test_a_finished_run_is_not_queued_again(run):
    write(run, "finished")
    with pytest.raises(StudioError, match="it is finished"):
        run.reopen()


def test_a_running_run_is_not_queued_again(run, sleeper):
    works_on(run, sleeper.pid)
    with pytest.raises(StudioError, match="it is running"):
        run.reopen()


def test_relative_paths_in_a_recipe_are_whole_in_its_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "auto").mkdir()  # a folder that is called like the default template
    recipe = Recipe.parse({"data": {"source": "rows.jsonl"}, "model": {"id": "owner/name"}})
    kept = Run.create(recipe).recipe
    assert kept.data.source == str(tmp_path / "rows.jsonl")
    assert kept.model.id == "owner/name"
    assert kept.data.chat_template == "auto"
