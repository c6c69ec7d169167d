"""What the worker chooses by trying it out, and that a recipe that names a value is obeyed."""

import sys
import types

import pytest
import torch
from tiny import make_tiny_chat_model
from transformers import AutoModelForCausalLM

from studio.errors import StudioError
from studio.models import attention
from studio.recipe import Recipe
from studio.training import choices as module
from studio.training import layer_choices
from studio.training.choices import Choices, choose_checkpointing, choose_loader, say_dtype
from studio.training.layer_choices import choose_attention, choose_kernels


def loaded(folder, dtype="bfloat16"):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))


def tried(monkeypatch, usual: float, wide: float):
    monkeypatch.setattr(layer_choices, "_tried", lambda *_: {"sdpa": usual, attention.FLOAT32: wide})


@pytest.mark.parametrize(("wide", "expected"), [(0.5, "sdpa_float32"), (0.95, "sdpa"), (2.0, "sdpa")])
def test_attention_of_half_precision_is_the_faster_one_by_a_tenth(tiny_model, monkeypatch, wide, expected):
    tried(monkeypatch, 1.0, wide)
    model, choices = loaded(tiny_model), Choices()
    choose_attention(choices, Recipe(), model, [5, 9, 7], "cpu")
    assert model.config._attn_implementation == choices.chosen("attention") == expected
    assert f"{wide:.2f}" in choices.told[0]["why"]


def test_a_float32_base_tries_nothing(tiny_model, monkeypatch):
    monkeypatch.setattr(layer_choices, "_tried", None)
    choices = Choices()
    choose_attention(choices, Recipe(), loaded(tiny_model, "float32"), [5], "cpu")
    assert choices.chosen("attention") == "sdpa"


def test_both_ways_are_really_timed(tiny_model):
    seconds = layer_choices._tried(loaded(tiny_model).config, torch.bfloat16, 2, 16)
    assert set(seconds) == {"sdpa", "sdpa_float32"} and all(value > 0 for value in seconds.values())


@pytest.mark.parametrize("name", ["eager", "sdpa_float32"])
def test_the_recipes_attention_is_obeyed(tiny_model, monkeypatch, name):
    monkeypatch.setattr(layer_choices, "_tried", None)
    model, choices = loaded(tiny_model), Choices()
    choose_attention(choices, Recipe.parse({"model": {"attn_implementation": name}}), model, [5], "cpu")
    assert model.config._attn_implementation == name
    assert choices.told[0]["by"] == "recipe"


def test_a_resumed_run_keeps_the_attention_that_it_began_with(tiny_model, monkeypatch):
    monkeypatch.setattr(layer_choices, "_tried", None)
    model, choices = loaded(tiny_model), Choices()
    choose_attention(choices, Recipe(), model, [5], "cpu", "sdpa_float32")
    assert model.config._attn_implementation == choices.chosen("attention") == "sdpa_float32"


@pytest.mark.parametrize("padded", [False, True])
def test_float32_attention_gives_the_logits_and_gradients_of_the_usual_one(tmp_path, padded):
    folder = make_tiny_chat_model(tmp_path / "grouped", hidden_size=64)
    ids = torch.randint(5, 100, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 1 - padded
    found = []
    for name in ("sdpa", "sdpa_float32"):
        model = loaded(folder)
        model.set_attn_implementation(attention.registered(name))
        logits = model(input_ids=ids, attention_mask=mask).logits
        logits[mask == 1].float().logsumexp(-1).sum().backward()
        found.append((logits[mask == 1], model.model.layers[0].self_attn.q_proj.weight.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=5e-2, atol=5e-2)


def test_a_gpu_takes_flash_attention_where_it_loads_and_says_why_not(tiny_model, monkeypatch):
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: True)
    model, taken = loaded(tiny_model), []
    monkeypatch.setattr(model, "set_attn_implementation", taken.append)
    choices = Choices()
    choose_attention(choices, Recipe(), model, [5], "cuda")
    assert taken == [choices.chosen("attention")] == ["flash_attention_2"]

    def fails(name):
        raise ImportError("no such kernel")

    monkeypatch.setattr(model, "set_attn_implementation", fails)
    choices = Choices()
    choose_attention(choices, Recipe(), model, [5], "cuda")
    assert choices.chosen("attention") == "sdpa" and "no such kernel" in choices.told[0]["why"]


def liger(monkeypatch, apply):
    """A stand-in for the package, which needs a GPU: ``apply`` is its function for the Llama family."""
    there = types.ModuleType("liger_kernel.transformers.monkey_patch")
    there.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": apply}
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, there.__name__, there)


def test_liger_is_taken_on_a_gpu_without_its_losses(tiny_model, monkeypatch):
    asked = []

    def apply(rope=True, cross_entropy=False, fused_linear_cross_entropy=True, rms_norm=True, model=None):
        asked.append((rope, rms_norm, cross_entropy, fused_linear_cross_entropy, model))

    liger(monkeypatch, apply)
    model, choices = loaded(tiny_model), Choices()
    choose_kernels(choices, Recipe(), model, "cuda")
    assert asked == [(True, True, False, False, model)]
    assert choices.told == [
        {"what": "Liger kernels", "chosen": "on", "by": "studio", "why": "They know the architecture llama."}
    ]


def test_a_model_that_answers_differently_with_liger_is_refused(tiny_model, monkeypatch):
    liger(monkeypatch, lambda model: model.lm_head.weight.data.mul_(2))
    with pytest.raises(StudioError, match="differently") as caught:
        choose_kernels(Choices(), Recipe(), loaded(tiny_model), "cuda")
    assert caught.value.field == "train.use_liger_kernel"


@pytest.mark.parametrize(
    ("device", "there", "word"), [("cpu", True, "GPUs"), ("cuda", False, "not installed"), ("cuda", True, "llama")]
)
def test_liger_is_left_out_with_the_reason_or_refused_where_it_is_asked_for(
    device, there, word, tiny_model, monkeypatch
):
    if there:
        liger(monkeypatch, None)
    else:
        monkeypatch.setitem(sys.modules, "liger_kernel", None)
    model, choices = loaded(tiny_model), Choices()
    if word == "llama":
        sys.modules["liger_kernel.transformers.monkey_patch"].MODEL_TYPE_TO_APPLY_LIGER_FN = {"other": None}
    choose_kernels(choices, Recipe(), model, device)
    assert choices.chosen("Liger kernels") == "off" and word in choices.told[0]["why"]
    with pytest.raises(StudioError, match=word):
        choose_kernels(Choices(), Recipe.parse({"train": {"use_liger_kernel": "on"}}), model, device)
    choose_kernels(Choices(), Recipe.parse({"train": {"use_liger_kernel": "off"}}), model, device)


def expected(needed, room):
    return {"estimated_memory_bytes": needed, "available_bytes": room}


@pytest.mark.parametrize(
    ("needed", "with_it", "room", "chosen"),
    [(5e9, 2e9, 8e9, False), (5e9, 2e9, 3e9, True), (5e9, 5e9, 3e9, False), (None, 2e9, 3e9, False)],
)
def test_checkpointing_is_turned_on_only_where_the_memory_demands_it(needed, with_it, room, chosen):
    choices = Choices()
    recipe = choose_checkpointing(choices, Recipe(), expected(needed, room), lambda _: with_it)
    assert recipe.train.gradient_checkpointing is chosen
    assert choices.chosen("gradient checkpointing") == ("on" if chosen else "off")
    assert not Recipe().train.gradient_checkpointing


@pytest.mark.parametrize("train", [{"checkpoint_when_needed": False}, {"gradient_checkpointing": True}])
def test_the_recipes_checkpointing_is_obeyed(train):
    recipe, choices = Recipe.parse({"train": train}), Choices()
    assert choose_checkpointing(choices, recipe, expected(5e9, 1e9), lambda _: 1e9) == recipe
    assert choices.told[0]["by"] == "recipe"


def test_prefix_tuning_does_not_go_together_with_checkpointing():
    recipe = Recipe.parse({"method": {"kind": "prefix_tuning"}})
    assert choose_checkpointing(Choices(), recipe, expected(5e9, 1e9), lambda _: 1e6) == recipe


def test_a_gpu_gets_loader_processes_only_for_slow_batches(monkeypatch):
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: range(8))
    now = iter(range(100))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(now)))  # a second a batch
    assert choose_loader(Choices(), Recipe(), lambda: None, "cuda") == 4
    monkeypatch.setattr(module.time, "perf_counter", lambda: 0.0)
    assert choose_loader(Choices(), Recipe(), lambda: None, "cuda") == 0
    assert choose_loader(Choices(), Recipe(), None, "cpu") == 0
    assert choose_loader(Choices(), Recipe.parse({"train": {"dataloader_num_workers": 3}}), None, "cpu") == 3


@pytest.mark.parametrize(
    ("settings", "dtype", "device", "word"),
    [
        ({}, "bfloat16", "cpu", "1.3 times as fast as"),
        ({}, "float32", "cpu", "not 1.3 times"),
        ({"method": {"kind": "full"}}, "float32", "cpu", "too small"),
        ({}, "bfloat16", "cuda", "GPU"),
        ({"model": {"dtype": "float16"}}, "float16", "cuda", "recipe"),
    ],
)
def test_the_number_format_is_explained(settings, dtype, device, word):
    choices = Choices()
    say_dtype(choices, Recipe.parse(settings), dtype, device)
    assert word in choices.told[0]["why"]
