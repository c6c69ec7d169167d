"""The leader of several ranks: starts them, ends them together, and says what became of the run. The ranks are
stand-ins that do as they are told."""

import json
import sys
import time

import psutil
import pytest

from studio.recipe import Recipe
from studio.runs import Run
from studio.training import rank_group

pytestmark = pytest.mark.usefixtures("home")

RANK = """
import json, os, pathlib, signal, sys, time
folder, rank = pathlib.Path(sys.argv[-1]), os.environ["STUDIO_RANK"]
names = ("STUDIO_RANKS", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS", "STUDIO_MEETING")
(folder / f"saw-{rank}").write_text(json.dumps({"pid": os.getpid(), **{n: os.environ.get(n) for n in names}}))
print("I am rank", rank)
def fail(what, when, lost=False):
    (folder / "ranks").mkdir(exist_ok=True)
    words = {"what": what, "fix": "Mend it.", "traceback": "", "time": when, "lost_a_peer": lost}
    (folder / "ranks" / f"rank-{rank}.json").write_text(json.dumps(words))
    sys.exit(1)
way = sys.argv[1]
if way == "killed" and rank == "1":
    os.kill(os.getpid(), signal.SIGKILL)
if way == "killed":
    time.sleep(60)
if way == "fails":
    fail("The data is gone.", 2.0) if rank == "1" else fail("gloo: closed", 1.0, True)
if way == "silent" and rank == "1":
    sys.exit(3)
if way == "silent":
    time.sleep(60)
if rank == "0":
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"time": time.time(), "kind": "finished", "step": 1}) + "\\n")
if way == "stays" and rank == "1":
    time.sleep(60)
"""


@pytest.fixture
def lead(monkeypatch):
    """Leads two (or more) ranks that behave in a certain way."""
    monkeypatch.setattr(rank_group, "_GRACE_SECONDS", 0.3)
    monkeypatch.setattr(rank_group, "_LEAVE_SECONDS", 0.3)

    def run_ranks(way: str, count: int = 2, place: rank_group.Place = rank_group.Place()) -> tuple[Run, str]:
        monkeypatch.setattr(rank_group, "RANK", (sys.executable, "-S", "-c", RANK, way))
        run = Run.create(Recipe.parse({"train": {"num_processes": count}}))
        return run, rank_group.lead(run.folder, place)

    return run_ranks


def seen(run: Run, rank: int) -> dict:
    return json.loads((run.folder / f"saw-{rank}").read_text())


def test_ranks_that_finish_make_a_finished_run(lead):
    run, kind = lead("finish")
    assert kind == run.status == "finished"
    assert len(run.events()) == 1


def test_every_rank_knows_its_number_and_shares_the_cores(lead, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(rank_group.os, "sched_getaffinity", lambda _: set(range(8)))
    run, _ = lead("finish", count=4)
    assert [seen(run, n)["LOCAL_RANK"] for n in range(4)] == ["0", "1", "2", "3"]
    assert {seen(run, n)["WORLD_SIZE"] for n in range(4)} == {"4"}
    assert {seen(run, n)["OMP_NUM_THREADS"] for n in range(4)} == {"2"}
    assert len({seen(run, n)["STUDIO_MEETING"] for n in range(4)}) == 1


def test_a_number_of_threads_that_was_asked_for_stays(lead, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert seen(lead("finish")[0], 1)["OMP_NUM_THREADS"] == "3"


def test_the_second_machine_goes_on_counting_and_writes_no_events(lead):
    run, kind = lead("fails", place=rank_group.Place(1, 2, "node0:29500"))
    assert [seen(run, n)["LOCAL_RANK"] for n in (2, 3)] == ["0", "1"]
    assert seen(run, 2)["STUDIO_RANKS"] == "4"
    assert seen(run, 2)["STUDIO_MEETING"] == "tcp://node0:29500"
    assert kind == "failed"
    assert run.events() == []


def test_a_killed_rank_fails_the_run_and_takes_the_others_with_it(lead):
    began = time.monotonic()
    run, kind = lead("killed", count=3)
    assert kind == run.status == "failed"
    assert time.monotonic() - began < 30
    assert not any(psutil.pid_exists(seen(run, n)["pid"]) for n in range(3))
    event = run.events()[-1]
    assert event["what"].startswith("Rank 1 (process ")
    assert "SIGKILL" in event["what"]
    assert "memory" in event["fix"]


def test_the_rank_that_began_it_says_why_not_the_one_that_lost_it(lead):
    run, _ = lead("fails")
    assert run.events()[-1]["what"] == "The data is gone."


def test_a_rank_that_says_nothing_is_named_with_its_exit_code(lead):
    run, _ = lead("silent")
    assert "Rank 1 ended with exit code 3" in run.events()[-1]["what"]


def test_a_rank_that_does_not_leave_is_ended_and_the_run_is_finished(lead):
    run, kind = lead("stays")
    assert kind == "finished"
    assert not psutil.pid_exists(seen(run, 1)["pid"])


def test_every_rank_but_the_first_has_a_log_of_its_own(lead, capfd):
    run, _ = lead("finish")
    assert (run.folder / "log-rank-1.txt").read_text() == "I am rank 1\n"
    assert "I am rank 0" in capfd.readouterr().out


def test_what_an_earlier_try_left_is_not_taken_for_a_reason(lead, monkeypatch):
    run, _ = lead("fails")
    monkeypatch.setattr(rank_group, "RANK", (sys.executable, "-S", "-c", RANK, "silent"))
    run.reopen()
    rank_group.lead(run.folder)
    assert "exit code 3" in run.events()[-1]["what"]
