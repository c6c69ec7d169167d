"""The launcher: every run starts once, in its turn, whoever looks at the queue and whatever died before."""

import subprocess
import sys
import time

import pytest

from studio.errors import StudioError
from studio.jobs import process
from studio.recipe import Recipe
from studio.runs import Launcher, Run, launcher, queue

pytestmark = pytest.mark.usefixtures("home")

# A worker that says it has started, works until it is told to end, and says so.
WORKER = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
def say(kind):
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"time": time.time(), "kind": kind, "step": 0}) + "\\n")
say("started")
deadline = time.monotonic() + 30
while not (folder / "go").exists() and not (folder / "stop").exists() and time.monotonic() < deadline:
    time.sleep(0.01)
say("stopped" if (folder / "stop").exists() else "finished")
"""


class Workers:
    """Stand-ins for the worker; ``started`` has the runs in the order in which they were started."""

    def __init__(self):
        self.started: list[Run] = []
        self.devices: list[list[str] | None] = []
        self.processes: list[subprocess.Popen] = []

    def start(self, run: Run, server=None, devices: list[str] | None = None) -> subprocess.Popen:
        child = subprocess.Popen([sys.executable, "-S", "-c", WORKER, str(run.folder)])
        described = process.describe(child.pid, ["worker"])
        process.write(run.folder / "process.json", described | ({"devices": devices} if devices else {}))
        self.devices.append(devices)
        self.started.append(run)
        self.processes.append(child)
        return child

    @property
    def ids(self) -> list[str]:
        return [run.id for run in self.started]


@pytest.fixture
def workers(monkeypatch):
    stand_in = Workers()
    monkeypatch.setattr(launcher, "start_worker", stand_in.start)
    yield stand_in
    for child in stand_in.processes:
        child.kill()
        child.wait()


def recipe(name: str, device: str = "auto") -> Recipe:
    made = Recipe(name=name)
    made.train.device = device
    return made


def create(name: str, device: str = "auto") -> Run:
    """A run whose id sorts by its name, also within one second."""
    run = Run.create(recipe(name, device))
    return Run(run.folder.rename(run.folder.with_name(f"20260101-000000-{name}-0000")))


def let_go(run: Run) -> None:
    (run.folder / "go").touch()


def until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_a_submitted_run_is_started_and_ends(workers):
    made = Launcher(poll_seconds=0.02).start()
    run = made.submit(recipe("a"))
    until(lambda: run.status == "running")
    let_go(run)
    until(lambda: run.status == "finished")
    made.close()
    assert workers.ids == [run.id]


def test_the_same_recipe_submitted_twice_at_once_is_one_run(workers):
    made = Launcher()
    assert made.submit(recipe("a")).id == made.submit(recipe("a")).id


def test_whoever_listens_is_told_of_a_run_before_its_worker_starts(workers):
    made, told = Launcher(), []
    made.before_start = lambda run: told.append((run.id, list(workers.ids)))
    run = made.submit(Recipe())
    made.tick()
    assert told == [(run.id, [])] and workers.ids == [run.id]


def test_two_recipes_submitted_at_once_are_two_runs(workers):
    made = Launcher()
    assert made.submit(recipe("a")).id != made.submit(recipe("b")).id


def test_the_same_recipe_submitted_again_later_is_another_run(workers, monkeypatch):
    made = Launcher()
    first = made.submit(recipe("a"))
    monkeypatch.setattr(launcher, "_SAME_LAUNCH_SECONDS", 0.0)
    assert made.submit(recipe("a")).id != first.id


def test_runs_go_one_at_a_time_in_the_order_they_were_made(workers):
    runs = [create(name) for name in "abc"]
    made = Launcher()
    for number, run in enumerate(runs):
        for _ in range(3):
            made.tick()
        assert workers.ids == [r.id for r in runs[: number + 1]]
        until(lambda run=run: run.status == "running")
        let_go(run)
        until(lambda run=run: run.status == "finished")
    made.tick()
    assert len(workers.started) == 3


def test_runs_submitted_within_one_second_start_in_the_order_they_were_submitted(workers):
    made = Launcher()
    runs = [made.submit(recipe(name)) for name in "zyxwvutsrq"]
    for run in runs:
        let_go(run)  # its worker ends as soon as it has started
    for _ in runs:
        made.tick()
        until(lambda: workers.started[-1].status == "finished")
    assert workers.ids == [run.id for run in runs]


def test_a_queued_run_that_is_stopped_never_starts(workers):
    first, second = create("a"), create("b")
    made = Launcher()
    made.tick()
    second.stop()
    made.tick()
    assert second.status == "stopped"
    let_go(first)
    until(lambda: first.status == "finished")
    made.tick()
    assert workers.ids == [first.id]


def test_a_running_run_that_is_stopped_ends_as_stopped(workers):
    run = create("a")
    Launcher().tick()
    until(lambda: run.status == "running")
    run.stop()
    until(lambda: run.status == "stopped")


def test_a_new_launcher_leaves_a_running_run_alone(workers):
    run, waiting = create("a"), create("b")
    Launcher().tick()
    until(lambda: run.status == "running")
    second = Launcher()
    for _ in range(3):
        second.tick()
    assert workers.ids == [run.id]
    assert waiting.status == "queued"


def test_a_new_launcher_goes_on_with_the_queue_after_the_old_ones_worker(workers):
    run, waiting = create("a"), create("b")
    Launcher().tick()
    let_go(run)
    until(lambda: run.status == "finished")
    Launcher().tick()
    assert workers.ids == [run.id, waiting.id]


def test_an_interrupted_run_is_not_started_again_by_itself(workers):
    run = create("a")
    made = Launcher()
    made.tick()
    workers.processes[0].kill()
    workers.processes[0].wait()
    for _ in range(3):
        made.tick()
    assert run.status == "interrupted"
    assert workers.ids == [run.id]


def test_an_interrupted_run_does_not_hold_up_the_queue(workers):
    run, waiting = create("a"), create("b")
    made = Launcher()
    made.tick()
    workers.processes[0].kill()
    workers.processes[0].wait()
    made.tick()
    assert workers.ids == [run.id, waiting.id]


def test_a_reopened_run_is_started_again(workers):
    run = create("a")
    made = Launcher()
    made.tick()
    workers.processes[0].kill()
    workers.processes[0].wait()
    run.reopen()
    made.tick()
    assert workers.ids == [run.id, run.id]


def test_two_launchers_on_one_workspace_start_every_run_once(workers):
    runs = [create(name) for name in "abcd"]
    for run in runs:
        let_go(run)
    pair = [Launcher(poll_seconds=0.01).start() for _ in range(2)]
    until(lambda: all(run.status == "finished" for run in runs))
    for made in pair:
        made.close()
    assert workers.ids == [run.id for run in runs]


def test_a_run_that_another_launcher_has_claimed_is_waited_for(workers):
    claimed, waiting = create("a"), create("b")
    claimed.claim()
    Launcher().tick()
    assert workers.started == []
    assert waiting.status == "queued"


def test_a_closed_launcher_starts_nothing_and_leaves_its_worker(workers):
    run, waiting = create("a"), create("b")
    made = Launcher()
    made.tick()
    made.close()
    made.tick()
    assert workers.ids == [run.id]
    assert workers.processes[0].poll() is None
    assert waiting.status == "queued"


def test_a_worker_that_cannot_be_started_fails_its_run_and_the_next_one_starts(monkeypatch, workers):
    run, waiting = create("a"), create("b")
    start = workers.start

    def start_worker(which, server, devices):
        if which.id == waiting.id:
            return start(which, server, devices)
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", refuse)
            return real(which, server, devices)

    def refuse(*arguments, **options):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.undo()
    real = launcher.start_worker
    monkeypatch.setenv("STUDIO_HOME", str(run.folder.parent.parent))
    monkeypatch.setattr(launcher, "start_worker", start_worker)
    Launcher().tick()
    assert run.status == "failed"
    assert "Cannot allocate memory" in run.events()[-1]["what"]
    assert workers.ids == [waiting.id]


def test_a_folder_that_is_no_whole_run_does_not_stop_the_launcher(workers, home):
    (home / "runs" / "stray").mkdir(parents=True)
    run = create("a")
    Launcher().tick()
    assert workers.ids == [run.id]


def test_each_gpu_has_one_run_and_the_cpu_another(workers):
    runs = [create("a"), create("b"), create("c"), create("d", "cpu"), create("e", "cpu")]
    made = Launcher(devices=("0", "MIG-7", "cpu"))
    made.tick()
    made.tick()
    assert workers.ids == [runs[0].id, runs[1].id, runs[3].id]
    assert workers.devices == [["0"], ["MIG-7"], ["cpu"]]
    let_go(runs[1])
    until(lambda: runs[1].status == "finished")
    made.tick()
    assert (workers.ids[-1], workers.devices[-1]) == (runs[2].id, ["MIG-7"])


def test_a_run_that_was_started_elsewhere_may_be_on_any_device(workers):
    workers.start(create("a"))
    waiting = create("b")
    until(lambda: workers.started[0].status == "running")
    Launcher(devices=("0", "1", "cpu")).tick()
    assert waiting.status == "queued"


def test_a_worker_sees_its_device_alone(monkeypatch, home):
    seen = {}

    def popen(command, **options):
        seen.update(options["env"])
        raise OSError(12, "enough")

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(StudioError):
        launcher.start_worker(create("a"), None, ["1"])
    assert seen["CUDA_VISIBLE_DEVICES"] == "1"
    with pytest.raises(StudioError):
        launcher.start_worker(create("b"), None, ["cpu"])
    assert seen["CUDA_VISIBLE_DEVICES"] == ""


def test_runs_start_in_the_order_that_a_person_gave_them(workers):
    runs = {name: create(name) for name in "abcd"}
    queue.move(runs["d"], -2)
    queue.move(runs["a"], 99)
    assert [run.id for run in queue.waiting()] == [runs[name].id for name in "dbca"]
    made = Launcher()
    for name in "dbca":
        let_go(runs[name])
        made.tick()
        until(lambda: workers.started[-1].status == "finished")
    assert workers.ids == [runs[name].id for name in "dbca"]


def test_a_later_run_comes_behind_those_that_were_moved():
    runs = {name: create(name) for name in "bcd"}
    queue.move(runs["d"], -1)
    first_by_its_id = create("a")
    assert queue.waiting()[-1].id == first_by_its_id.id


def test_a_run_that_does_not_wait_is_not_moved(workers):
    run = create("a")
    Launcher().tick()
    until(lambda: run.status == "running")
    with pytest.raises(StudioError, match="not waiting"):
        queue.move(run, 1)


def test_a_queued_run_that_is_paused_waits_until_it_is_resumed(workers):
    held, other = create("a"), create("b")
    held.pause()
    made = Launcher()
    made.tick()
    made.tick()
    assert held.status == "paused"
    assert workers.ids == [other.id]
    held.reopen()
    assert held.status == "queued" and not held.pausing


def test_a_cancelled_run_ends_at_once_and_so_does_its_worker(workers):
    run = create("a")
    Launcher().tick()
    until(lambda: run.events() and run.status == "running")
    run.cancel()
    assert run.process is None
    assert run.status == "stopped"
    assert run.events()[-1]["what"] == "Cancelled."
    with pytest.raises(StudioError, match="it is stopped"):
        run.cancel()


def test_a_cancelled_run_in_the_queue_never_starts(workers):
    run = create("a")
    run.cancel()
    Launcher().tick()
    assert run.status == "stopped"
    assert workers.ids == []
