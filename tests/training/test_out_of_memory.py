"""Running out of memory: known by its type wherever it comes from, and retried with less."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lessons import done, lesson, write_rows
from tiny import make_tiny_chat_model

from studio.errors import StudioError
from studio.runs import Run
from studio.training.failures import explain, out_of_memory
from studio.training.oom_remedies import relieved_run

ROOT = Path(__file__).resolve().parent.parent.parent
MB = 10**6
pytestmark = pytest.mark.usefixtures("home")


def caused(by: BaseException) -> StudioError:
    error = StudioError("The model does not fit.", "Take a smaller one.")
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        OSError(12, "Cannot allocate memory"),
        caused(torch.OutOfMemoryError("CUDA out of memory")),
    ],
    ids=["python", "device", "host", "system", "behind a refusal"],
)
def test_every_way_to_run_out_of_memory_is_known(error):
    assert out_of_memory(error)
    problem, fields = explain(error, SimpleNamespace(recipe=lesson(Path("nowhere"), Path("nowhere"))))
    assert problem.what.endswith("ran out of memory.")
    assert fields["reason"] == "out_of_memory"
    assert "train.per_device_train_batch_size" in problem.fix


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), OSError(28, "No space left"), ValueError("memory")])
def test_other_failures_are_not_taken_for_it(error):
    assert not out_of_memory(error)
    assert "reason" not in explain(error, SimpleNamespace(recipe=lesson(Path("nowhere"), Path("nowhere"))))[1]


def test_the_event_says_what_was_taken_expected_and_available(tiny_model, tmp_path, monkeypatch):
    from studio.training.trainer import StudioTrainer

    def compute_loss(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(StudioTrainer, "compute_loss", compute_loss)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    event = done(
        lesson(tiny_model, write_rows(tmp_path / "rows.jsonl"), memory_limit_gb=4), expected="failed"
    ).events()[-1]
    assert event["reason"] == "out_of_memory"
    assert event["peak_memory_bytes"] > event["run_memory_bytes"] >= 0
    assert event["estimated_memory_bytes"] > 0
    assert event["available_bytes"] == 4000 * MB
    assert event["longest_tokens"] <= 64
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.fixture
def large(tmp_path):
    """A recipe whose step does not fit into 200 MB, and that of half of its batch does; rows differ from the start."""
    model = make_tiny_chat_model(tmp_path / "wide", hidden_size=256)
    rows = tmp_path / "rows.jsonl"
    told = [{"prompt": f"{n}? " + "word " * 50, "completion": "yes " * 20} for n in range(40)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in told))
    recipe = lesson(model, rows, max_steps=1, per_device_train_batch_size=64, eval_steps=0)
    recipe.data.max_length, recipe.data.holdout = 256, 0
    return recipe


WORKERS = """
import json, os, resource, sys
from studio.training import memory_monitor
from studio.training.fork_server import preload
preload()
for line in sys.stdin:
    request = json.loads(line)
    if pid := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        continue
    os.environ["STUDIO_HOME"] = request["home"]
    sys.stdout = sys.stderr
    if request["bytes"]:
        bound = memory_monitor._data_bytes() + request["bytes"]
        resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
    from studio.training import train
    os._exit(train(request["folder"]) != "finished")
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """The worker of a run as a process, which may be given fewer bytes from outside; its exit code.

    All are forked from a process that has imported what a worker needs, as those of the studio are.
    """
    log = (tmp_path_factory.mktemp("workers") / "log.txt").open("w+")
    alone = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # no threads before the fork
    ends = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
    parent = subprocess.Popen([sys.executable, "-c", WORKERS], cwd=ROOT, env={**os.environ, **alone}, text=True, **ends)

    def work(run: Run, limit_bytes: int = 0) -> int:
        request = {"folder": str(run.folder), "bytes": limit_bytes, "home": os.environ["STUDIO_HOME"]}
        print(json.dumps(request), file=parent.stdin, flush=True)
        return int(parent.stdout.readline())

    with parent, log:
        yield work
        parent.kill()


def test_a_worker_under_a_limit_of_its_recipe_says_so_and_its_retry_finishes(large, worker):
    large.train.memory_limit_gb = 0.2
    run = Run.create(large)
    assert worker(run) == 1
    event = run.events()[-1]
    assert (event["kind"], event["reason"], event["available_bytes"]) == ("failed", "out_of_memory", 200 * MB)
    assert event["estimated_memory_bytes"] > 200 * MB
    smaller, taken = relieved_run(run.recipe, event)
    assert [step.key for step in taken] == ["batch"]
    assert smaller.train.per_device_train_batch_size * smaller.train.gradient_accumulation_steps == 64
    again = Run.create(smaller)
    assert worker(again) == 0
    assert again.status == "finished"


def test_a_limit_from_outside_is_told_as_well(large, worker):
    run = Run.create(large)
    assert worker(run, 120 * MB) == 1
    event = run.events()[-1]
    assert (event["kind"], event["reason"]) == ("failed", "out_of_memory")
    assert event["available_bytes"] < 120 * MB
    assert relieved_run(run.recipe, event)[1][0].key == "batch"


def test_freed_tensors_go_back_to_the_system():
    """In a process of its own, since the setting is the process's: what a step has freed is not held."""
    program = """
import sys, torch
from studio.training.memory_monitor import give_back_at_once, resident_bytes
if sys.argv[1] == "at once":
    assert give_back_at_once()
big = torch.ones(7_500_000)
del big  # glibc takes blocks of up to this size into its heap from now on
blocks = [torch.ones(2_000_000 + 50_000 * n) for n in range(40)]
kept = blocks[::2]
del blocks
print(resident_bytes() - sum(tensor.nbytes for tensor in kept))
"""
    taken = {}
    for way in ("as glibc does", "at once"):
        run = subprocess.run([sys.executable, "-c", program, way], capture_output=True, text=True, check=True)
        taken[way] = int(run.stdout)
    assert taken["at once"] < taken["as glibc does"] - 50_000_000
