"""What the worker chooses for a machine, and that a recipe that names a value is obeyed."""

import sys
import time
import types

import pytest
import torch
from tiny import make_tiny_chat_model
from transformers import AutoModelForCausalLM

from studio.errors import StudioError
from studio.models import attention, processor
from studio.models.load import resolve_dtype
from studio.recipe import Recipe
from studio.training import choices as module
from studio.training.acceleration.compiled import CompiledLayers
from studio.training.acceleration.layer_choices import choose_attention, choose_compile, choose_kernels, choose_layers
from studio.training.choices import (
    Choices,
    choose_checkpointing,
    choose_loader,
    choose_threads,
    kept_choices,
    say_dtype,
)


def loaded(folder, dtype="bfloat16"):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))


def able(monkeypatch, *instructions: str):
    """A processor with these instructions."""
    monkeypatch.setattr(processor, "capabilities", lambda: dict.fromkeys(instructions, True))


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [((), "sdpa_float32"), (("avx512_bf16",), "sdpa_float32"), (("avx512_bf16", "amx_bf16"), "sdpa")],
)
def test_results_03_attention_of_half_precision_follows_from_the_instructions(
    tiny_model, monkeypatch, instructions, expected
):
    able(monkeypatch, *instructions)
    model, choices = loaded(tiny_model), Choices()
    choose_attention(choices, Recipe(), model, "cpu")
    assert model.config._attn_implementation == choices.chosen("attention") == expected


@pytest.mark.parametrize(
    ("vendor", "instructions", "expected"),
    [
        ("GenuineIntel", (), "float32"),
        ("GenuineIntel", ("avx512_bf16",), "float32"),
        ("GenuineIntel", ("avx512_bf16", "amx_bf16"), "bfloat16"),
        ("AuthenticAMD", (), "float32"),
        ("AuthenticAMD", ("avx512_bf16",), "bfloat16"),
        ("", ("bf16",), "bfloat16"),
    ],
)
def test_results_03_the_number_format_follows_from_vendor_and_instructions(monkeypatch, vendor, instructions, expected):
    able(monkeypatch, *instructions)
    monkeypatch.setattr(processor, "vendor", lambda: vendor)
    assert resolve_dtype("auto", "cpu") == expected


def test_results_03_no_choice_that_changes_results_looks_at_a_clock(tiny_model, monkeypatch):
    """On a machine on which any time may come out."""

    def forbidden(*_):
        raise AssertionError("a clock was read")

    for name in ("time", "perf_counter", "monotonic", "process_time", "thread_time", "time_ns", "perf_counter_ns"):
        monkeypatch.setattr(time, name, forbidden)
    model, choices, recipe = loaded(tiny_model), Choices(), Recipe()
    say_dtype(choices, recipe, resolve_dtype("auto", "cpu"), "cpu")
    choose_attention(choices, recipe, model, "cpu")
    choose_kernels(choices, recipe, model, "cpu")
    choose_threads(choices, None, None)
    choose_layers(choices, recipe, model, "cpu")
    assert not choose_compile(choices, recipe, CompiledLayers(model))
    assert {"dtype", "attention", "threads", "torch.compile"} <= {one["what"] for one in choices.told}


class Log:
    """Keeps what is written."""

    def __init__(self):
        self.written = []

    def write(self, kind, **fields):
        self.written.append({"kind": kind, **fields})


def test_results_03_a_run_keeps_its_threads_and_the_users_number_goes_before(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    log = Log()
    try:
        assert choose_threads(Choices(), 3, log) == torch.get_num_threads() == 3
        assert log.written == []
        torch.set_num_threads(1)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        choices = Choices()
        assert choose_threads(choices, 3, log) == torch.get_num_threads() == 1
        assert choices.chosen("threads") == "1"
        assert [(one["kind"], one["rule"]) for one in log.written] == [("warning", "threads")]
    finally:
        torch.set_num_threads(before)


def test_threads_are_no_more_than_the_cores_that_the_control_group_allows(monkeypatch, tmp_path):
    monkeypatch.setattr(processor, "_GROUPS", tmp_path)
    monkeypatch.setattr(processor.os, "sched_getaffinity", lambda _: set(range(8)))
    assert processor.allowed_cores() == 8
    for written, cores in (("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("1600000 100000", 8)):
        (tmp_path / "cpu.max").write_text(written + "\n")
        assert processor.allowed_cores() == cores
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    for quota, cores in (("-1", 8), ("300000", 3)):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota + "\n")
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
        assert processor.allowed_cores() == cores


@pytest.mark.parametrize("resumed", [True, False])
def test_results_03_the_choices_of_a_run_are_kept_on_the_same_processor_and_a_difference_is_told(resumed):
    resolved = {"device": "CPU", "processor": "One, AVX512", "dtype": "bfloat16", "attention": "sdpa", "threads": 2}
    recipe, log = Recipe.parse({"resolved": resolved}), Log()
    assert kept_choices(recipe, resumed, "CPU", "One, AVX512", log) == recipe.resolved
    assert log.written == []
    for device, name in (("CPU", "Other, AVX2"), ("Some GPU", "One, AVX512")):
        log = Log()
        assert kept_choices(recipe, resumed, device, name, log) == (recipe.resolved if resumed else None)
        assert [one["rule"] for one in log.written] == ["processor"]
    assert kept_choices(Recipe(), resumed, "CPU", "One, AVX512", log) is None


def test_a_float32_base_keeps_the_usual_kernel(tiny_model):
    choices = Choices()
    choose_attention(choices, Recipe(), loaded(tiny_model, "float32"), "cpu")
    assert choices.chosen("attention") == "sdpa"


@pytest.mark.parametrize("name", ["eager", "sdpa_float32"])
def test_the_recipes_attention_is_obeyed(tiny_model, name):
    model, choices = loaded(tiny_model), Choices()
    choose_attention(choices, Recipe.parse({"model": {"attn_implementation": name}}), model, "cpu")
    assert model.config._attn_implementation == name
    assert choices.told[0]["by"] == "recipe"


def test_a_resumed_run_keeps_the_attention_that_it_began_with(tiny_model):
    model, choices = loaded(tiny_model), Choices()
    choose_attention(choices, Recipe(), model, "cpu", "sdpa_float32")
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
    choose_attention(choices, Recipe(), model, "cuda")
    assert taken == [choices.chosen("attention")] == ["flash_attention_2"]

    def fails(name):
        raise ImportError("no such kernel")

    monkeypatch.setattr(model, "set_attn_implementation", fails)
    choices = Choices()
    choose_attention(choices, Recipe(), model, "cuda")
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
    monkeypatch.setattr(module.time, "thread_time", lambda: float(next(now)))  # a second a batch
    assert choose_loader(Choices(), Recipe(), lambda: None, "cuda") == 4
    monkeypatch.setattr(module.time, "thread_time", lambda: 0.0)
    assert choose_loader(Choices(), Recipe(), lambda: None, "cuda") == 0
    assert choose_loader(Choices(), Recipe(), None, "cpu") == 0
    assert choose_loader(Choices(), Recipe.parse({"train": {"dataloader_num_workers": 3}}), None, "cpu") == 3


@pytest.mark.parametrize(
    ("settings", "dtype", "device", "word"),
    [
        ({}, "bfloat16", "cpu", "bfloat16 faster"),
        ({}, "float32", "cpu", "float32 faster"),
        ({"method": {"kind": "full"}}, "float32", "cpu", "too small"),
        ({}, "bfloat16", "cuda", "GPU"),
        ({"model": {"dtype": "float16"}}, "float16", "cuda", "recipe"),
    ],
)
def test_the_number_format_is_explained(settings, dtype, device, word):
    choices = Choices()
    say_dtype(choices, Recipe.parse(settings), dtype, device)
    assert word in choices.told[0]["why"]
