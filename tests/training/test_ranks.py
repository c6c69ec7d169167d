"""Two ranks on a CPU: the run of one rank with batches of twice the size, and an end for both whatever happens."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from lessons import curve, kinds, lesson, weights, write_rows

from studio.recipe import Recipe
from studio.runs import Run
from studio.runs.worker_start import start_worker

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("home")]
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def plan(tiny_model, tmp_path):
    """Makes recipes of steps with four rows, by so many ranks. All rows begin alike, for longer than they differ."""
    rows = write_rows(tmp_path / "rows.jsonl", 30)

    def make(ranks: int, **settings) -> Recipe:
        settings = {"per_device_train_batch_size": 4 // ranks, "num_processes": ranks, "max_steps": -1} | settings
        recipe = lesson(tiny_model, rows, **settings)
        recipe.data.system_prompt = "Answer with the name of a colour, as often as it is asked for, and nothing else."
        recipe.data.max_length = 128
        return recipe

    return make


@pytest.fixture
def started():
    """Starts the workers of recipes, and leaves no process behind."""
    made = []

    def start(recipe: Recipe) -> Run:
        run = Run.create(recipe)
        assert run.claim()
        made.append(start_worker(run))
        return run

    yield start
    for worker in made:
        worker.kill()
        worker.wait()


def until(condition, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def finished(run: Run, kind: str = "finished") -> Run:
    until(lambda: run.status not in ("running", "queued"))
    assert run.status == kind, (run.events()[-1], run.log_path.read_text()[-3000:])
    return run


def family(run: Run) -> list[psutil.Process]:
    """The leader and its ranks."""
    return [run.process, *run.process.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def close(one: list, other: list) -> bool:
    steps = [step for step, _ in one] == [step for step, _ in other]
    return steps and all(abs(a - b) < 1e-4 for (_, a), (_, b) in zip(one, other, strict=True))


VARIANTS = {
    "by length, two epochs": {"num_train_epochs": 2},
    "in any order, accumulated": {"group_by_length": False, "gradient_accumulation_steps": 2},
    "full": {"method": {"kind": "full"}, "num_train_epochs": 1, "learning_rate": 1e-3},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_ranks_have_the_curve_of_one_with_batches_of_twice_the_size(plan, started, variant):
    one, two = (finished(started(plan(ranks, **VARIANTS[variant]))) for ranks in (1, 2))
    assert len(curve(one)) >= 5
    assert close(curve(one), curve(two))
    assert close(curve(one, "eval"), curve(two, "eval"))
    assert kinds(one) == kinds(two)
    assert (one.view().started["processes"], two.view().started["processes"]) == (1, 2)
    first, second = weights(one.model_dir), weights(two.model_dir)
    assert all((first[name] - second[name]).abs().max() < 1e-3 for name in first)


def test_a_classifier_is_trained_by_two_ranks(started, tmp_path):
    from class_lessons import class_lesson, rows_of, write
    from tiny import make_tiny_bert

    recipe = class_lesson(make_tiny_bert(tmp_path / "bert"), write(tmp_path / "rows.jsonl", rows_of()), max_steps=4)
    recipe.train.num_processes = 2
    run = finished(started(recipe))
    assert (run.folder / "predictions.jsonl").exists()
    assert run.view().eval_loss


def test_a_killed_rank_ends_the_run_within_thirty_seconds(plan, started):
    run = started(plan(2, max_steps=100_000, eval_steps=0, save_steps=0))
    until(lambda: run.view().step >= 3)
    processes = family(run)
    assert len(processes) == 3
    second = next(p for p in processes[1:] if p.environ()["STUDIO_RANK"] == "1")
    second.kill()
    killed = time.monotonic()
    until(lambda: run.status == "failed" and gone(processes), 30)
    assert time.monotonic() - killed < 30
    event = run.events()[-1]
    assert f"Rank 1 (process {second.pid})" in event["what"]
    assert "SIGKILL" in event["what"]
    assert event["fix"]


def test_stop_ends_all_ranks_at_one_step_and_the_run_goes_on_to_the_same_end(plan, started):
    whole = finished(started(plan(2, num_train_epochs=3)))
    run = started(plan(2, num_train_epochs=3))
    until(lambda: run.view().step >= 2)
    processes = family(run)
    run.stop()
    until(lambda: run.status == "stopped" and gone(processes))
    last = curve(run)[-1][0]
    states = sorted(p.name for p in (run.checkpoints_dir / f"checkpoint-{last}").glob("rng_state*"))
    assert states == ["rng_state_0.pth", "rng_state_1.pth"]
    run.reopen()
    assert run.claim()
    start_worker(run)
    finished(run)
    assert close(curve(run)[-3:], curve(whole)[-3:])


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_the_end_of_the_leader_is_the_end_of_its_ranks(plan, started, end):
    run = started(plan(2, max_steps=100_000, eval_steps=0, save_steps=0))
    until(lambda: run.view().step >= 3)
    processes = family(run)
    getattr(processes[0], end)()
    until(lambda: gone(processes), 60)
    assert run.status == ("interrupted" if end == "kill" else "stopped")


def test_an_error_on_every_rank_is_told_once(plan, started):
    recipe = plan(2)
    recipe.data.max_length = 8
    run = finished(started(recipe), "failed")
    assert "max_length 8" in run.events()[-1]["what"]
    assert kinds(run) == ["failed"]


@pytest.fixture
def hosts():
    """Two network namespaces with a cable between them, as two machines: their names, and the first one's address."""
    if os.geteuid() or not shutil.which("ip") or subprocess.run(["ip", "netns", "add", "studio-probe"]).returncode:
        pytest.skip("network namespaces cannot be made here")
    subprocess.run(["ip", "netns", "del", "studio-probe"], check=True)
    names = [f"studio-{os.getpid()}-{number}" for number in range(2)]
    ends = [f"st{os.getpid()}{letter}" for letter in "ab"]
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run(["ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1]], check=True)
        for number, (name, end) in enumerate(zip(names, ends, strict=True)):
            inside = ["ip", "netns", "exec", name, "ip"]
            subprocess.run(["ip", "link", "set", end, "netns", name, "name", "cable"], check=True)
            subprocess.run([*inside, "addr", "add", f"10.77.0.{number + 1}/24", "dev", "cable"], check=True)
            subprocess.run([*inside, "link", "set", "cable", "up"], check=True)
            subprocess.run([*inside, "link", "set", "lo", "up"], check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name])


def test_two_machines_have_the_curve_of_one(plan, started, hosts):
    one = finished(started(plan(1)))
    recipe = plan(2)
    recipe.train.num_processes = 1
    run = Run.create(recipe)
    assert run.claim()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "cable"}
    place = ["--machines", "2", "--address", "10.77.0.1:29500"]
    machines = []
    for number, host in enumerate(hosts):
        command = [sys.executable, "-m", "studio.training", str(run.folder), "--machine", str(number), *place]
        machines.append(subprocess.Popen(["ip", "netns", "exec", host, *command], env=environment))
    assert [machine.wait(300) for machine in machines] == [0, 0]
    assert run.status == "finished"
    assert close(curve(one), curve(run))
    assert json.loads((run.folder / "process.json").read_text())["command"]
