"""Compiled layers: the same numbers, shared by all layers, and only where that pays back."""

import pytest
import torch
from lessons import curve, done, lesson, write_rows
from tiny import make_tiny_gpt2
from transformers import AutoModelForCausalLM

from studio.recipe import Recipe
from studio.training import layer_choices as module
from studio.training.choices import Choices
from studio.training.compiled import CompiledLayers, repeated_layers
from studio.training.layer_choices import choose_compile

pytestmark = pytest.mark.usefixtures("home")


class Layers:
    """Stands for a model's layers: ``seconds`` as they are, and then compiled."""

    def __init__(self, usual: float, compiled: float | Exception):
        self.layers, self._seconds, self.done = [1, 2], [usual, compiled], []

    def seconds(self):
        found = self._seconds.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def compile(self):
        self.done.append("compile")

    def undo(self):
        self.done.append("undo")


@pytest.mark.parametrize(
    ("usual", "compiled", "done", "word"),
    [
        (1.0, None, [], "16.7 minutes"),  # 1000 steps of it are less than half an hour
        (4.0, 2.0, ["compile"], "0.50 of its time"),
        (4.0, 3.9, ["compile", "undo"], "0.97 of its time"),
        (4.0, RuntimeError("no C++ compiler\nhere"), ["compile", "undo"], "It failed: no C++ compiler"),
    ],
)
def test_it_is_tried_in_long_runs_and_kept_where_it_pays(usual, compiled, done, word):
    layers, choices = Layers(usual, compiled), Choices()
    assert choose_compile(choices, Recipe(), layers, 1000, "cpu") is (done == ["compile"])
    assert layers.done == done and word in choices.told[-1]["why"]


def test_few_steps_are_not_even_timed():
    layers, choices = Layers(9.0, 1.0), Choices()
    assert not choose_compile(choices, Recipe(), layers, 49, "cpu")
    assert "only 49 steps" in choices.told[0]["why"] and layers._seconds == [9.0, 1.0]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": {"quantization": "nf4"}}, "Quantised"),
        ({"model": {"task": "seq_cls"}}, "classifiers"),
        ({"train": {"packing": True}}, "mask"),
        ({"method": {"kind": "prompt_tuning"}}, "method"),
    ],
)
def test_where_it_is_not_tried_the_reason_is_said(change, word):
    choices = Choices()
    assert not choose_compile(choices, Recipe.parse(change), Layers(9.0, 1.0), 10**6, "cpu")
    assert word in choices.told[0]["why"]
    assert not choose_compile(Choices(), Recipe(), Layers(9.0, 1.0), 10**6, "cpu", processes=2)


def test_a_resumed_run_keeps_what_it_began_with_and_a_recipe_is_obeyed(monkeypatch):
    for wanted, fixed, by in (("auto", True, "studio"), ("on", False, "recipe"), ("on", None, "recipe")):
        layers, choices = Layers(0.0, 0.0), Choices()
        recipe = Recipe.parse({"train": {"torch_compile": wanted}})
        assert choose_compile(choices, recipe, layers, 1, "cpu", fixed=fixed)
        assert layers.done == ["compile"] and choices.told[-1]["by"] == by
        assert choices.told[0]["why"] == "They are compiled."
    assert not choose_compile(Choices(), Recipe(), Layers(0.0, 0.0), 1, "cpu", fixed=False)


def test_the_repeated_layers_are_the_decoders(tiny_model, tmp_path):
    llama = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert repeated_layers(llama) == list(llama.model.layers)
    gpt2 = AutoModelForCausalLM.from_pretrained(make_tiny_gpt2(tmp_path / "gpt2"))
    assert repeated_layers(gpt2) == list(gpt2.transformer.h)
    assert repeated_layers(torch.nn.Linear(2, 2)) == []


def test_timing_the_layers_leaves_weights_gradients_and_random_numbers_alone(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model).train()
    layers = CompiledLayers(model, lambda: {"input_ids": torch.arange(12)[None]})
    before = torch.get_rng_state()
    assert layers.seconds() > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(layer._forward_pre_hooks for layer in layers.layers)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_compiled_run_learns_as_the_plain_one_and_resumes_compiled(tiny_model, tmp_path, checkpointing):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    rows = write_rows(tmp_path / "rows.jsonl")
    found = []
    for value in ("on", "off"):  # the plain one with the fused passes
        recipe = lesson(tiny_model, rows, torch_compile=value, gradient_checkpointing=checkpointing)
        found.append(done(recipe))
    compiled, plain = found
    for kind in ("step", "eval"):
        for (step, loss), (other_step, other) in zip(curve(compiled, kind), curve(plain, kind), strict=True):
            assert step == other_step and loss == pytest.approx(other, rel=1e-4)
    assert compiled.recipe.resolved.compiled is True and plain.recipe.resolved.compiled is False
    stats = torch._dynamo.utils.counters["stats"]
    assert 0 < stats["unique_graphs"] <= 5, "batches of many lengths: few compilations"


@pytest.mark.slow
def test_a_layer_that_is_really_compiled_is_timed(tiny_model, monkeypatch):
    torch._dynamo.reset()
    model = AutoModelForCausalLM.from_pretrained(tiny_model).train()
    layers = CompiledLayers(model, lambda: {"input_ids": torch.arange(12)[None].repeat(2, 1)})
    monkeypatch.setattr(module, "WORTH", 100.0)  # of so small a layer it is a matter of luck
    choices = Choices()
    assert choose_compile(choices, Recipe(), layers, 10**9, "cpu"), choices.told
    assert all("forward" in vars(layer) for layer in layers.layers)
