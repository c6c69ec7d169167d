"""Worker, studio and both are killed at random moments, again and again: nothing is lost, and the end is the same."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from studio.recipe import Recipe
from studio.runs import Run
from studio.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

METHODS = {
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "r": 4, "lora_dropout": 0.2},
    "adalora": {"kind": "adalora", "init_r": 4, "target_r": 2},
}
STEPS = 2000
TRUTHFUL_SECONDS = 3.0
# A studio without its page: what starts and follows workers.
STUDIO = "import time; from studio.runs import Launcher; Launcher(poll_seconds=0.1).start(); time.sleep(3600)"


class Studio:
    """The launcher in a process of its own, started again after each kill."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        if self.process is None or self.process.poll() is not None:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            self.process = subprocess.Popen([sys.executable, "-c", STUDIO], cwd=ROOT, env=environment)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def studio(home):
    made = Studio()
    yield made
    made.kill()
    for folder in (home / "runs").glob("*"):
        if (folder / "process.json").exists() and (left := Run(folder).process):
            left.kill()


def lesson(model: Path, rows: Path, method: dict) -> Recipe:
    return Recipe.parse(
        {
            "name": "killed",
            "model": {"id": str(model), "dtype": "float32"},
            "data": {"source": str(rows), "holdout": 0.25, "max_length": 64},
            "method": method,
            "train": {
                "max_steps": STEPS,
                "per_device_train_batch_size": 2,
                "learning_rate": 0.001,
                "eval_steps": 500,
                "save_steps": 50,
                "device": "cpu",
                "seed": 3,
            },
        }
    )


def until(condition, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def digest(run: Run) -> str:
    """Of the tuned weights."""
    return hashlib.sha256(b"".join(p.read_bytes() for p in sorted(run.model_dir.glob("*.safetensors")))).hexdigest()


def goes_on(run: Run, seen: int) -> bool:
    """Whether it has taken a step since so many of its events were seen, or ended."""
    return run.status != "running" or any(event["kind"] == "step" for event in run.events()[seen:])


def to_its_end(studio: Studio, run: Run) -> None:
    studio.start()
    until(lambda: run.status in ("finished", "failed"), 300)
    assert run.status == "finished", run.events()[-1]


@pytest.mark.parametrize("method", METHODS)
def test_killed_again_and_again_a_run_loses_nothing_and_ends_with_the_same_weights(
    studio, tiny_model, tmp_path, method
):
    """Twelve kills for each method: of the worker, of the studio, of both, at moments drawn at random."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Count {n}.", "completion": f"{n + 1}"}) + "\n" for n in range(40)))
    whole = Run.create(lesson(tiny_model, rows, METHODS[method]))
    to_its_end(studio, whole)

    draw = random.Random(f"kills of {method}")
    run = Run.create(lesson(tiny_model, rows, METHODS[method]))
    shown: list[dict] = []
    kills: list[tuple[str, int]] = []  # who, and at which step
    for victim in ["worker", "studio", "both"] * 4:
        studio.start()
        until(lambda: run.process is not None)
        began = len(shown)
        if draw.random() < 0.25:  # while it loads, and otherwise in its steps, measurements and checkpoints
            time.sleep(draw.uniform(0, 4))
        else:
            until(partial(goes_on, run, len(shown)))
            time.sleep(draw.uniform(0, 1.2))
        if run.status == "finished":
            break
        shown = run.events()  # what a page could have shown
        worker = run.process
        kills.append((victim, run.view().step))
        if victim != "worker":
            studio.kill()
        if victim != "studio" and worker is not None:
            worker.kill()
        killed = time.monotonic()
        if victim == "studio":
            time.sleep(0.3)
            assert run.status in ("running", "finished")
        else:
            until(lambda: run.status != "running", TRUTHFUL_SECONDS)
            assert run.status in ("interrupted", "finished")
            assert time.monotonic() - killed < TRUTHFUL_SECONDS
        assert run.events()[: len(shown)] == shown, "an event that was shown has gone"
        assert len(shown) >= began
        if run.status == "interrupted":
            run.reopen()
            shown = run.events()
            assert run.status == "queued"
    to_its_end(studio, run)
    print(method, "killed at", kills)
    assert len(kills) >= 8 and len({step for _, step in kills}) > 3
    assert run.events()[: len(shown)] == shown
    assert digest(run) == digest(whole)
    assert run.view().curves["loss"] == whole.view().curves["loss"]


def test_a_pid_that_is_another_process_now_is_not_taken_for_the_worker(studio, home):
    run = Run.create(Recipe(name="reused"))
    run.claim()
    me = psutil.Process()
    written = {"pid": me.pid, "start": me.create_time() - 3600, "host": os.uname().nodename}
    (run.folder / "process.json").write_text(json.dumps(written))
    assert run.status == "interrupted"
    assert Workspace.current().root == home
