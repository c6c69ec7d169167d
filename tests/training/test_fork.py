"""Workers forked from the process that has everything imported: the same run as in a fresh process, and as hardy."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from lessons import curve, kinds, lesson, write_rows

from studio.runs import Run, WorkerServer
from studio.runs import worker_server as server_of_studio
from studio.runs.worker_start import ForkedWorker, start_worker
from studio.training import fork_server as server_itself
from studio.training.fork_server import preload, stamp, unfit


@pytest.fixture(scope="module")
def server():
    """A real server, ready; it takes some seconds."""
    made = WorkerServer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(server_of_studio, "_LATE", server_of_studio._LATE | {"PYTEST_CURRENT_TEST"})  # new every time
        made.warm()
        until(lambda: made.ready or made.trouble)
        assert made.ready, made.trouble
        yield made
    made.close()


@pytest.fixture
def plan(home, tiny_model, tmp_path):
    """Makes claimed runs over the tiny model and the rows."""
    rows = write_rows(tmp_path / "rows.jsonl")

    def make(**settings) -> Run:
        run = Run.create(lesson(tiny_model, rows, **settings))
        assert run.claim()
        made.append(run)
        return run

    made = []
    yield make
    for run in made:
        if run.process:
            run.process.kill()


def until(condition, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def digests(run: Run) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in run.model_dir.glob("*.safetensors")}


@pytest.mark.slow
def test_a_forked_worker_does_the_run_of_a_fresh_process_to_the_last_bit(plan, server):
    runs = [plan(), plan()]
    workers = [start_worker(run, given) for run, given in zip(runs, (server, None), strict=True)]
    assert [type(worker) for worker in workers] == [ForkedWorker, subprocess.Popen]
    for worker in workers:
        worker.wait(120)
    forked, fresh = runs
    assert forked.status == fresh.status == "finished"
    assert kinds(forked) == kinds(fresh)
    assert curve(forked) == curve(fresh)
    assert curve(forked, "eval") == curve(fresh, "eval")
    assert digests(forked) == digests(fresh) != {}


def test_a_forked_worker_is_a_session_of_its_own_and_ends_without_a_trace(plan, server):
    run = plan()
    worker = start_worker(run, server)
    assert os.getsid(worker.pid) == worker.pid
    worker.wait(120)
    assert run.status == "finished"
    until(lambda: not psutil.pid_exists(worker.pid), 10)  # not even a zombie is left
    assert "train_runtime" in run.log_path.read_text()


def test_two_workers_forked_at_once_are_two_runs(plan, server):
    runs = [plan(max_steps=2), plan(max_steps=2)]
    workers = [start_worker(run, server) for run in runs]
    assert len({worker.pid for worker in workers}) == 2
    for worker in workers:
        worker.wait(120)
    assert [run.status for run in runs] == ["finished", "finished"]
    assert curve(runs[0]) == curve(runs[1])


def test_the_killed_worker_of_a_server_is_interrupted_and_the_next_one_starts(plan, server):
    run, other = plan(max_steps=100_000), plan(max_steps=1)
    start_worker(run, server)
    until(lambda: run.view().step >= 1)
    run.process.kill()
    until(lambda: run.status == "interrupted", 10)
    start_worker(other, server).wait(120)
    assert other.status == "finished"


STUDIO = """
import os, sys, time
from studio.runs import Launcher, WorkerServer, Run
server = WorkerServer()
server.warm()
while not server.ready:
    time.sleep(0.05)
launcher = Launcher(server=server).start()
print(server.pid, flush=True)
time.sleep(600)
"""


def test_the_worker_outlives_the_killed_server_and_the_killed_studio(plan):
    run = plan(max_steps=100_000, eval_steps=0, save_steps=0)
    (run.folder / "claim").unlink()  # this studio's launcher is to find it
    studio = subprocess.Popen([sys.executable, "-c", STUDIO], stdout=subprocess.PIPE, text=True)
    try:
        server = psutil.Process(int(studio.stdout.readline()))
        until(lambda: run.view().step >= 3)
        assert run.process.ppid() == server.pid
        server.kill()
        studio.send_signal(signal.SIGKILL)
        studio.wait()
        until(lambda: not server.is_running())
        step = run.view().step
        until(lambda: run.view().step > step + 5)
        assert run.status == "running"
        worker = run.process
        run.stop()
        until(lambda: run.status == "stopped")
        assert run.has_model
        until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    finally:
        studio.kill()
        studio.wait()


def test_the_server_ends_with_the_studio_even_while_it_imports(home):
    slow = "import time; from studio.training import fork_server as it; it.preload = lambda: time.sleep(2); it.main()"
    code = STUDIO.replace("WorkerServer()", f"WorkerServer([sys.executable, '-c', {slow!r}])")
    code = code.replace("while not server.ready:", "print(server.pid, flush=True)\nwhile True:")
    studio = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    server = psutil.Process(int(studio.stdout.readline()))
    studio.kill()
    studio.wait()
    until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


def test_a_process_with_a_second_thread_is_not_forked():
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    assert "several threads" in unfit()
    over.set()
    thread.join()


def test_a_changed_line_of_the_studio_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(server_itself, "_STUDIO", tmp_path)
    (tmp_path / "a.py").write_text("1")
    before = stamp()
    assert stamp() == before
    (tmp_path / "a.py").write_text("12")
    assert stamp() != before


def test_where_there_is_a_gpu_nothing_that_begins_cuda_is_imported(monkeypatch):
    taken = []
    monkeypatch.setattr(server_itself, "has_gpu", lambda: True)
    monkeypatch.setattr(server_itself.importlib, "import_module", taken.append)
    preload()
    assert "torch" in taken
    code = (
        f"import sys, importlib; [importlib.import_module(n) for n in {taken!r}]; print('bitsandbytes' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
