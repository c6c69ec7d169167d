"""Fewer threads beside other processes: the same bits, and only in the forward and backward passes."""

from types import SimpleNamespace

import pytest
import torch
from lessons import curve, done, lesson, write_rows

from studio.thread_waiting import MKL_MODE, LoadWatch
from studio.training import worker
from studio.training.acceleration.thread_count import ThreadCount, is_thread_count_invariant

pytestmark = pytest.mark.usefixtures("home")


class Busy(LoadWatch):
    """As if other processes left one processor."""

    free_processors = 1

    def start(self):
        pass


class Line(torch.nn.Linear):
    dtype = torch.float32


class Trainer:
    """One matrix; what it computes may depend on the number of threads."""

    def __init__(self, depends=False):
        self.model, self._depends, self.threads = Line(4, 4), depends, []
        self.compute_loss_context_manager = lambda: torch.enable_grad()

    def some_batch(self):
        return torch.ones(2, 4)

    def _prepare_inputs(self, inputs):
        return inputs

    def compute_loss(self, model, inputs):
        self.threads.append(torch.get_num_threads())
        return torch.dropout(model(inputs), 0.5, True).sum() * (1 + torch.get_num_threads() * self._depends)


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setenv(MKL_MODE, "AVX512,STRICT")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def a_step(callback):
    """The number of threads within a step's passes, and at its optimizer."""
    callback.on_step_begin(None, None, None)
    within = torch.get_num_threads()
    callback.on_pre_optimizer_step(None, None, None)
    return within, torch.get_num_threads()


def test_results_15_a_step_beside_other_processes_has_fewer_threads_and_its_optimizer_has_all(two_threads):
    trainer, watch = Trainer(), SimpleNamespace(free_processors=None)
    callback = ThreadCount(trainer, watch)
    assert a_step(callback) == (2, 2) and trainer.threads == []
    watch.free_processors = 1
    assert a_step(callback) == (1, 2) and trainer.threads == [2, 1]
    assert a_step(callback) == (1, 2) and trainer.threads == [2, 1]  # tried once
    watch.free_processors = 2
    assert a_step(callback) == (2, 2)


def test_threads_stay_where_a_batch_gives_other_gradients_with_fewer(two_threads):
    trainer = Trainer(depends=True)
    callback = ThreadCount(trainer, Busy())
    assert a_step(callback) == (2, 2) == a_step(callback)
    assert trainer.threads == [2, 1]


def test_trying_leaves_gradients_and_random_numbers_alone(two_threads):
    trainer = Trainer()
    trainer.model.weight.grad = kept = torch.ones(4, 4)
    before = torch.get_rng_state()
    ThreadCount(trainer, Busy()).on_step_begin(None, None, None)
    assert trainer.model.weight.grad is kept and kept.sum() == 16 and trainer.model.bias.grad is None
    assert torch.equal(torch.get_rng_state(), before)


def test_products_depend_on_threads_unless_mkl_is_strict_or_they_are_in_half_precision(monkeypatch):
    monkeypatch.delenv(MKL_MODE, raising=False)
    assert not is_thread_count_invariant(torch.float32) and is_thread_count_invariant(torch.bfloat16)
    monkeypatch.setenv(MKL_MODE, "AVX2")
    assert not is_thread_count_invariant(torch.float32)
    monkeypatch.setenv(MKL_MODE, "AVX2,STRICT")
    assert is_thread_count_invariant(torch.float32)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_results_15_a_run_beside_other_processes_ends_with_the_same_weights(
    two_threads, tiny_model, tmp_path, monkeypatch, kind
):
    given = lesson(tiny_model, write_rows(tmp_path / "rows.jsonl"))
    recipe = type(given).parse({**given.model_dump(exclude={"resolved"}, mode="json"), "method": {"kind": kind}})
    alone = done(recipe)
    monkeypatch.setattr(worker, "LoadWatch", Busy)
    beside = done(recipe)
    assert curve(beside) == curve(alone)
    files = sorted(alone.model_dir.glob("*.safetensors"))
    assert files and all((beside.model_dir / one.name).read_bytes() == one.read_bytes() for one in files)
    assert beside.recipe.resolved == alone.recipe.resolved
