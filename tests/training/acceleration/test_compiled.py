"""Compiled layers: the same numbers, shared by all layers, and only where a recipe asks for them."""

import pytest
import torch
from lessons import curve, done, lesson, write_rows
from tiny import make_tiny_gpt2
from transformers import AutoModelForCausalLM

from studio.recipe import Recipe
from studio.training.acceleration.compiled import repeated_layers
from studio.training.acceleration.layer_choices import choose_compile
from studio.training.choices import Choices

pytestmark = pytest.mark.usefixtures("home")


class Layers:
    """Stands for a model's layers."""

    def __init__(self):
        self.done = []

    def compile(self):
        self.done.append("compile")


def test_results_03_nothing_is_compiled_by_itself():
    layers, choices = Layers(), Choices()
    assert not choose_compile(choices, Recipe(), layers)
    assert choices.chosen("torch.compile") == "off" and layers.done == []


def test_a_resumed_run_keeps_what_it_began_with_and_a_recipe_is_obeyed():
    for wanted, fixed, by in (("auto", True, "studio"), ("on", False, "recipe"), ("on", None, "recipe")):
        layers, choices = Layers(), Choices()
        recipe = Recipe.parse({"train": {"torch_compile": wanted}})
        assert choose_compile(choices, recipe, layers, fixed)
        assert layers.done == ["compile"] and choices.told[0]["by"] == by
        assert choices.told[-1]["why"] == "They are compiled."
    assert not choose_compile(Choices(), Recipe(), Layers(), False)
    assert not choose_compile(Choices(), Recipe.parse({"train": {"torch_compile": "off"}}), Layers(), True)


def test_the_repeated_layers_are_the_decoders(tiny_model, tmp_path):
    llama = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert repeated_layers(llama) == list(llama.model.layers)
    gpt2 = AutoModelForCausalLM.from_pretrained(make_tiny_gpt2(tmp_path / "gpt2"))
    assert repeated_layers(gpt2) == list(gpt2.transformer.h)
    assert repeated_layers(torch.nn.Linear(2, 2)) == []


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
