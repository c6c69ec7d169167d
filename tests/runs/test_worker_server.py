"""The studio's end of the process that workers are forked from: whatever is wrong with it, the run starts all the same.

The server here is a stand-in that speaks its words and starts sleepers.
"""

import os
import sys
import time

import psutil
import pytest

from studio.jobs import process
from studio.recipe import Recipe
from studio.runs import Run, WorkerServer, worker_server, worker_start

pytestmark = pytest.mark.usefixtures("home")

SERVER = """
import json, os, pathlib, socket, subprocess, sys, time
channel = socket.socket(fileno=int(sys.argv[2]))
def say(**message):
    channel.sendall(json.dumps(message).encode() + b"\\n")
def start(folder):
    sleeper = subprocess.Popen(["sleep", "60"])
    start = psutil.Process(sleeper.pid).create_time()
    words = {"pid": sleeper.pid, "start": start, "host": socket.gethostname(), "command": ["sleep"]}
    (pathlib.Path(folder) / "process.json").write_text(json.dumps(words))
    return sleeper.pid
import psutil
way = sys.argv[1]
if way == "ends":
    sys.exit(1)
if way == "unfit":
    say(refused="CUDA has begun", for_good=True)
    sys.exit(0)
if way == "slow":
    time.sleep(60)
say(ready=True)
for line in channel.makefile():
    request = json.loads(line)
    if "folder" not in request:
        continue
    if way == "dies":
        sys.exit(1)
    if way == "changed":
        say(refused="the studio's code has changed", for_good=False)
        sys.exit(0)
    pid = start(request["folder"])
    if way == "mute":
        time.sleep(60)
    say(pid=pid)
"""


@pytest.fixture
def serving():
    """Makes servers that behave in a certain way, and ends them and their sleepers."""
    made, before = [], {child.pid for child in psutil.Process().children(recursive=True)}

    def make(way: str, ready: bool = True) -> WorkerServer:
        made.append(WorkerServer([sys.executable, "-c", SERVER, way]))
        made[-1].warm()
        if ready:
            until(lambda: made[-1].ready)
        return made[-1]

    yield make
    for each in made:
        each.close()
    for child in psutil.Process().children(recursive=True):
        if child.pid not in before:
            child.kill()


@pytest.fixture
def run():
    made = Run.create(Recipe(name="a"))
    assert made.claim()
    yield made
    if made.process:
        made.process.kill()


def until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_a_server_that_is_ready_starts_the_worker(serving, run):
    worker = worker_start.start_worker(run, serving("good"))
    assert isinstance(worker, worker_start.ForkedWorker)
    assert run.process.pid == worker.pid
    assert run.status == "running"


def test_a_forked_worker_that_is_gone_is_seen_to_be(serving, run):
    worker = worker_start.start_worker(run, serving("good"))
    assert worker.poll() is None
    psutil.Process(worker.pid).kill()
    assert worker.wait(10) == worker.poll() == 0


@pytest.mark.parametrize("way", ["slow", "ends", "unfit"])
def test_a_server_that_is_not_ready_is_not_waited_for(serving, run, way):
    assert serving(way, ready=False).fork(run, worker_server.worker_environment()) is None


@pytest.mark.parametrize("way", ["dies", "changed"])
def test_without_an_answer_the_worker_is_a_fresh_process(serving, run, monkeypatch, way):
    there = serving(way)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    real = worker_start.subprocess.Popen
    monkeypatch.setattr(worker_start.subprocess, "Popen", lambda _, **options: real(command, **options))
    worker = worker_start.start_worker(run, there)
    assert isinstance(worker, real)
    assert run.process.pid == worker.pid
    assert not there.ready


def test_a_worker_that_came_without_a_word_is_the_runs_worker(serving, run, monkeypatch):
    monkeypatch.setattr(worker_server, "_ANSWER_SECONDS", 3.0)
    worker = worker_start.start_worker(run, serving("mute"))
    assert isinstance(worker, worker_start.ForkedWorker)
    assert run.process.pid == worker.pid


def test_after_its_code_has_changed_the_next_server_is_a_new_one(serving, run):
    there = serving("changed")
    old = there.pid
    assert there.fork(run, worker_server.worker_environment()) is None
    there.warm()
    assert there.pid not in (None, old)


def test_another_environment_needs_a_fresh_process_and_another_gpu_does_not(serving, run):
    there = serving("good")
    assert there.fork(run, {**os.environ, "OMP_NUM_THREADS": "7"}) is None
    assert there.fork(run, {**worker_server.worker_environment(), "CUDA_VISIBLE_DEVICES": "3"})


def test_code_that_comes_with_a_model_runs_in_a_fresh_process(serving, monkeypatch):
    recipe = Recipe(name="a")
    recipe.model.trust_remote_code = True
    run = Run.create(recipe)
    asked = []
    there = serving("good")
    monkeypatch.setattr(there, "fork", lambda *_: asked.append(True))
    monkeypatch.setattr(worker_start.subprocess, "Popen", lambda *_, **__: psutil.Process())
    worker_start.start_worker(run, there)
    assert not asked


def test_a_server_that_cannot_be_used_is_not_started_again(serving):
    there = serving("unfit", ready=False)
    until(lambda: there.ready or there.trouble)
    there.warm()
    assert there.pid is None
    assert there.trouble == "CUDA has begun"


def test_a_server_that_ends_before_it_is_ready_is_tried_twice(serving):
    there = serving("ends", ready=False)
    until(lambda: there.warm() or there.trouble)
    assert there.pid is None


def test_two_wishes_for_a_server_start_one(serving):
    there = serving("good")
    pid = there.pid
    there.warm()
    assert there.pid == pid


def test_a_closed_server_is_gone_and_its_worker_is_not(serving, run):
    there = serving("good")
    pid = there.pid
    worker = worker_start.start_worker(run, there)
    there.close()
    assert not psutil.pid_exists(pid)
    assert worker.poll() is None


def test_the_first_process_to_say_so_has_the_run(run):
    path = run.folder / "process.json"
    assert process.write_first(path, process.describe(1, ["one"]))
    assert not process.write_first(path, process.describe(2, ["other"]))
    assert process.read(path)["pid"] == 1
