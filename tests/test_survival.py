"""Killing the studio leaves the worker training, and a new studio finds it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_studio(home: Path) -> tuple[subprocess.Popen, str]:
    port = free_port()
    environment = {**os.environ, "STUDIO_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    studio = subprocess.Popen(
        [sys.executable, "-c", f"from studio.ui.app import serve; serve(port={port}, get_model=False)"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}/"
    wait(lambda: answers(address), "the page does not answer")
    return studio, address


def answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def wait(condition, complaint: str, seconds: float = 90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.1)


@pytest.fixture
def long_run(home, tiny_model):
    from studio.recipe import Recipe
    from studio.runs import Run

    rows = home.parent / "rows.jsonl"
    lines = [json.dumps({"prompt": f"Count {n}.", "completion": f"{n + 1}"}) for n in range(40)]
    rows.write_text("\n".join(lines), encoding="utf-8")
    recipe = Recipe.parse(
        {
            "model": {"id": str(tiny_model)},
            "data": {"source": str(rows), "max_length": 64},
            "method": {"kind": "lora", "r": 4},
            "train": {"max_steps": 100_000, "eval_steps": 0, "save_steps": 0},
        }
    )
    run = Run.create(recipe)
    yield run
    if run.process:
        run.process.kill()


@pytest.mark.slow  # tests/training/test_fork.py does the same with a studio that has no page
def test_a_killed_studio_leaves_the_worker_and_a_new_one_shows_it(home, long_run):
    studio, _ = start_studio(home)
    try:
        wait(lambda: long_run.view().step >= 5, "no steps")
    finally:
        studio.kill()
        studio.wait()
    step = long_run.view().step
    wait(lambda: long_run.view().step > step + 5, "the worker stopped with the studio")
    assert long_run.status == "running"

    again, address = start_studio(home)
    try:
        page = httpx.get(address).text
        assert long_run.id in page  # the top line names the run that goes on
        pid = long_run.process.pid
        step = long_run.view().step
        wait(lambda: long_run.view().step > step + 5, "the new studio disturbed the worker")
        assert long_run.process.pid == pid
        long_run.stop()
        wait(lambda: long_run.status == "stopped", "it does not stop")
        assert long_run.has_model
    finally:
        again.kill()
        again.wait()
