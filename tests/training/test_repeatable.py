"""The same recipe and seed give the same choices, losses and weights, whatever else the machine is doing."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lessons import curve, done, lesson, stop_after, write_rows

from studio import thread_waiting
from studio.models.processor import processor_name
from studio.recipe import Recipe, Resolved
from studio.runs import Run
from studio.training import train

pytestmark = pytest.mark.usefixtures("home")
ROOT = Path(__file__).resolve().parent.parent.parent
METHODS = {
    "full": {"method": {"kind": "full"}},
    "lora": {"method": {"kind": "lora", "r": 4}},
    "qlora": {"method": {"kind": "lora", "r": 4}, "model": {"quantization": "nf4"}},
}


def weights(run: Run) -> dict[str, str]:
    """The sha256 of each file of weights that a run has left."""
    files = sorted(run.model_dir.glob("*.safetensors"))
    assert files
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def worked(recipe: Recipe) -> Run:
    """A run of the recipe, done by a worker process with two threads."""
    environment = {name: value for name, value in os.environ.items() if name not in thread_waiting.NAMES}
    run = Run.create(recipe)
    command = [sys.executable, "-m", "studio.training", str(run.folder)]
    worker = subprocess.run(
        command, env={**environment, "OMP_NUM_THREADS": "2"}, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert worker.returncode == 0, worker.stderr
    return run


@pytest.fixture
def busy():
    """Starts processes that do nothing but compute."""
    started = []

    def start(count):
        loop = [sys.executable, "-c", "while True: pass"]
        started.extend(subprocess.Popen(loop, start_new_session=True) for _ in range(count))

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_results_03_a_run_is_the_same_to_the_bit_alone_and_beside_busy_processes(tiny_model, tmp_path, busy, name):
    given = lesson(tiny_model, write_rows(tmp_path / "rows.jsonl")).model_dump(exclude={"resolved"}, mode="json")
    sections = METHODS[name]
    recipe = Recipe.parse(
        {**given, "method": sections["method"], "model": {"id": str(tiny_model), **sections.get("model", {})}}
    )
    alone = worked(recipe)
    busy(2)
    beside = worked(recipe)
    assert beside.recipe.resolved == alone.recipe.resolved
    assert curve(beside) == curve(alone) and curve(beside, "eval") == curve(alone, "eval")
    assert weights(beside) == weights(alone)


def test_results_03_how_a_run_computed_is_recorded_and_a_repeated_run_keeps_it(tiny_model, tmp_path):
    first = done(lesson(tiny_model, write_rows(tmp_path / "rows.jsonl")))
    found = first.recipe.resolved
    started = next(event for event in first.events() if event["kind"] == "started")
    assert found.processor == processor_name() == started["processor"]
    assert found.threads == started["threads"] and found.attention == "sdpa" and found.compiled is False
    told = {one["what"]: one["chosen"] for one in started["choices"]}
    assert found.choices.items() < told.items()
    assert found.choices["gradient checkpointing"] == "off" and told["dtype"] == found.dtype == "float32"

    kept = Resolved(**{**found.model_dump(), "attention": "eager", "model_revision": "other"})
    again = Run.create(first.recipe, repeated=kept)
    assert again.recipe.resolved.attention == "eager" and again.recipe.resolved.model_revision is None
    assert train(again.folder) == "finished"
    assert again.recipe.resolved.attention == "eager"
    assert Run.create(first.recipe).recipe.resolved is None


def test_results_03_a_resumed_run_keeps_its_threads(tiny_model, tmp_path, monkeypatch):
    import torch

    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 3, "pause")
        run = done(lesson(tiny_model, write_rows(tmp_path / "rows.jsonl")), "paused")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    began = run.recipe.resolved.threads
    try:
        torch.set_num_threads(began + 1)  # another number than at the beginning
        run.reopen()
        assert train(run.folder) == "finished"
        assert torch.get_num_threads() == began == run.recipe.resolved.threads
    finally:
        torch.set_num_threads(began)
