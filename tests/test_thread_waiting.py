"""How OpenMP threads wait: what is set before torch loads, and that they sleep while other processes are busy."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from studio import thread_waiting
from studio.thread_waiting import (
    MKL_MODE,
    LoadWatch,
    Sleepers,
    is_ours,
    mkl_mode,
    needed_sleepers,
    settle_environment,
    used_by_others,
    wait_settings,
)

ROOT = Path(__file__).resolve().parent.parent
LINUX = pytest.mark.skipif(not thread_waiting._has_gnu_openmp(), reason="torch comes with another OpenMP library here")
# Processor seconds that threads without work take within 0.05 s: before, beside and after sleepers.
TEAM = """
import json, os, sys, time
sys.path.insert(0, {root!r})
import torch
from studio.thread_waiting import Sleepers
torch.set_num_threads(len(os.sched_getaffinity(0)))
def processor_seconds():
    torch.add(x, x)
    before = time.process_time()
    time.sleep(0.05)  # threads that spin go on until their count is over
    return time.process_time() - before
x = torch.ones(1 << 18)
found = [processor_seconds()]
sleepers = Sleepers()
sleepers.come(1)
found.append(processor_seconds())
sleepers.go()
tries = (processor_seconds() for _ in range(40))  # libgomp forgets a thread a moment after its end
found.append(next((seconds for seconds in tries if seconds > 3 * found[1]), 0.0))
print(json.dumps(found))
"""


def test_what_the_user_has_set_stays_as_it_is():
    for name in thread_waiting.NAMES:
        given = {name: "1", MKL_MODE: "COMPATIBLE"}
        settle_environment(given)
        assert given == {name: "1", MKL_MODE: "COMPATIBLE"}
        assert not is_ours(given)


def test_settings_are_recognised_as_ours_by_a_child_process():
    given = {}
    settle_environment(given)
    assert given == wait_settings() | ({MKL_MODE: mkl_mode()} if mkl_mode() else {})
    assert is_ours(given) and is_ours({})
    assert not is_ours({**given, "GOMP_SPINCOUNT": "5"})
    assert not is_ours({"OMP_WAIT_POLICY": "PASSIVE"})


@pytest.mark.parametrize(
    ("vendor", "flags", "mode"),
    [
        ("GenuineIntel", "sse avx2 avx512f avx512bw avx512dq avx512vl amx_bf16", "AVX512,STRICT"),
        ("GenuineIntel", "sse avx2 avx512f", "AVX2,STRICT"),
        ("GenuineIntel", "sse", ""),
        ("AuthenticAMD", "sse avx2 avx512f avx512bw avx512dq avx512vl", ""),
    ],
)
def test_mkl_is_told_to_ignore_the_number_of_threads_where_it_can(tmp_path, vendor, flags, mode):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\n\nprocessor\t: 1\n", encoding="utf-8")
    assert mkl_mode(info) == mode
    assert mkl_mode(tmp_path / "missing") == ""


@LINUX
def test_what_other_processes_use_does_not_count_this_one():
    used, own, at = used_by_others(), time.process_time(), time.monotonic()
    while time.process_time() - own < 0.4:
        pass
    assert used_by_others() - used < len(os.sched_getaffinity(0)) * (time.monotonic() - at) - 0.3


def test_a_worker_has_the_settings_before_torch_is_loaded(monkeypatch):
    from studio.runs.worker_server import worker_environment

    for name in thread_waiting.NAMES:
        monkeypatch.delenv(name, raising=False)
    assert worker_environment().items() >= wait_settings().items()
    monkeypatch.setenv("GOMP_SPINCOUNT", "123")
    assert worker_environment()["GOMP_SPINCOUNT"] == "123"
    assert "OMP_WAIT_POLICY" not in worker_environment()


@LINUX
def test_threads_stop_spinning_while_there_are_sleepers():
    """The spin count is set so high that a thread without work would spin for all of the measured time."""
    environment = {**os.environ, "GOMP_SPINCOUNT": "30000000000", "OMP_WAIT_POLICY": "PASSIVE"}
    environment.pop("OMP_NUM_THREADS", None)
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one core has one thread, which waits for no other")
    done = subprocess.run(
        [sys.executable, "-c", TEAM.format(root=str(ROOT))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    before, beside, after = json.loads(done.stdout.splitlines()[-1])
    assert beside < before / 3 and beside < after / 3


class Load:
    """A machine whose other processes take ``share`` of the time of one of our threads."""

    def __init__(self):
        self.share, self._waited, self._at = 0.0, 0.0, time.monotonic()

    def __call__(self) -> float:
        now = time.monotonic()
        self._waited += self.share * (now - self._at)
        self._at = now
        return self._waited


@LINUX
def test_results_15_threads_sleep_while_the_machine_is_busy_and_spin_when_it_is_free_again(monkeypatch):
    for name in thread_waiting.NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(thread_waiting, "_PERIOD_SECONDS", 0.01)
    load = Load()
    with LoadWatch(load, threads=2, used=lambda: 0.0) as watch:
        _wait_for(lambda: load._waited == 0 and not watch.sleeping)
        load.share = 0.9
        _wait_for(lambda: watch.sleeping)
        load.share = 0.0
        _wait_for(lambda: not watch.sleeping)
        load.share = 0.9
        _wait_for(lambda: watch.sleeping)
    assert not watch.sleeping


@LINUX
def test_processors_that_others_take_are_not_free_until_they_give_them_back(monkeypatch):
    for name in thread_waiting.NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(thread_waiting, "_PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(thread_waiting, "_processors", lambda: 4)
    load, others = Load(), Load()
    with LoadWatch(load, threads=4, used=others) as watch:
        assert watch.free_processors is None
        load.share, others.share = 0.9, 1.1
        _wait_for(lambda: watch.free_processors == 3)
        load.share = 0.0  # with three threads nobody waits any more, and the load is still there
        time.sleep(0.2)
        assert watch.free_processors == 3
        others.share = 9.0
        _wait_for(lambda: watch.free_processors == 1)
        others.share = 0.0
        _wait_for(lambda: watch.free_processors is None)


@LINUX
@pytest.mark.parametrize("name", thread_waiting.NAMES)
def test_nothing_is_watched_where_the_user_has_decided(monkeypatch, name):
    for other in thread_waiting.NAMES:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "1")
    with LoadWatch(Load(), threads=2) as watch:
        assert watch._thread is None


def test_nothing_is_watched_with_one_thread_or_where_waiting_is_not_counted(monkeypatch):
    for name in thread_waiting.NAMES:
        monkeypatch.delenv(name, raising=False)
    with LoadWatch(Load(), threads=1) as watch:
        assert watch._thread is None
    with LoadWatch(lambda: None, threads=2) as watch:
        assert watch._thread is None


def test_few_sleepers_are_needed_even_on_a_large_machine():
    assert needed_sleepers(8, 8) == needed_sleepers(2, 4) == 1
    assert needed_sleepers(8, 2) == 7
    assert needed_sleepers(512, 8) == 64


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_sleepers_that_cannot_be_made_hold_nobody_up(monkeypatch):
    def refuse(threads):
        raise OSError("no more threads")

    monkeypatch.setattr(thread_waiting, "_gnu_parallel", lambda: refuse)
    sleepers = Sleepers()
    waiting = threading.Thread(target=lambda: (sleepers.come(1), sleepers.go()), daemon=True)
    waiting.start()
    waiting.join(10)
    assert not waiting.is_alive() and not sleepers.there


def _wait_for(condition, seconds: float = 20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
