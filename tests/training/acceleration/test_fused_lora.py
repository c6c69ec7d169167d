"""The fused LoRA pass is PEFT's, in value and in gradient, and keeps out of what it does not cover."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from studio.training.acceleration import fused_lora
from studio.training.acceleration.fused_lora import fuse_lora, row_lengths


def lora(folder, dtype=torch.float32, **options):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start, which would hide errors
                parameter.normal_(std=0.1)
            if "magnitude" in name:
                parameter.mul_(torch.rand_like(parameter) + 0.5)
    return model.train()


def step(model):
    torch.manual_seed(1)
    ids = torch.randint(0, 300, (2, 7))
    logits = model(input_ids=ids).logits
    logits.square().mean().backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("options", [{}, {"use_dora": True}])
def test_values_and_gradients_equal_those_of_peft(tiny_model, options):
    plain = lora(tiny_model, **options)
    fused = copy.deepcopy(plain)
    assert fuse_lora(fused) == 14  # seven linear layers in each of two blocks
    wanted, wanted_gradients = step(plain)
    given, given_gradients = step(fused)
    torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-6)
    assert given_gradients.keys() == wanted_gradients.keys()
    for name in wanted_gradients:
        torch.testing.assert_close(given_gradients[name], wanted_gradients[name], rtol=1e-4, atol=1e-7)


def test_dora_trains_in_bfloat16_as_with_peft(tiny_model):
    plain = lora(tiny_model, torch.bfloat16, use_dora=True)
    fused = copy.deepcopy(plain)
    assert fuse_lora(fused) == 14
    exact = lora(tiny_model, use_dora=True)
    wanted, wanted_gradients = step(exact)
    (given, gradients), (theirs, their_gradients) = step(fused), step(plain)

    def off(one, other):
        return (one.float() - other.float()).norm() / other.float().norm()

    assert off(given, wanted) <= 1.2 * off(theirs, wanted)
    for name, gradient in wanted_gradients.items():
        assert off(gradients[name], gradient) <= 1.5 * off(their_gradients[name], gradient) + 0.01, name


def test_dora_makes_no_matrix_of_the_size_of_a_weight(tiny_model):
    model = lora(tiny_model, use_dora=True)
    fuse_lora(model)
    layers = [module for name, module in model.named_modules() if name.endswith("base_layer")]
    weights, there = {tuple(m.weight.shape) for m in layers}, {m.weight.data_ptr() for m in layers}
    made = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            found = function(*arguments, **(options or {}))
            if isinstance(found, torch.Tensor) and found.data_ptr() not in there:
                made.append(tuple(found.shape))
            return found

    with Watch():
        step(model)
    assert made and not [shape for shape in made if shape in weights or shape[::-1] in weights]


def test_dora_measures_rows_that_the_adapter_turned_around(tiny_model):
    torch.manual_seed(0)
    weight, a, b = torch.randn(9, 6), torch.randn(2, 6), torch.randn(9, 2)
    squares = weight.square().sum(1)
    wanted = (weight + 3 * b @ a).norm(dim=1)
    torch.testing.assert_close(row_lengths(weight, squares, a, b, 3.0), wanted)


def test_evaluation_is_left_to_peft(tiny_model):
    plain = lora(tiny_model)
    fused = copy.deepcopy(plain)
    fuse_lora(fused)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(fused.eval()(input_ids=ids).logits, plain.eval()(input_ids=ids).logits)


def test_adapters_off_give_the_base_while_training(tiny_model):
    model = lora(tiny_model)
    fuse_lora(model)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    ids = torch.arange(9)[None]
    with torch.no_grad(), model.disable_adapter():
        assert torch.equal(model(input_ids=ids).logits, base(input_ids=ids).logits)


@pytest.mark.parametrize(
    "options", [{"lora_dropout": 0.1}, {"use_dora": True, "lora_dropout": 0.1}, {"lora_bias": True}]
)
def test_variants_are_left_to_peft(tiny_model, options):
    assert fuse_lora(lora(tiny_model, **options)) == 0


def test_layers_that_read_the_same_are_computed_together(tiny_model, monkeypatch):
    model = lora(tiny_model)
    fuse_lora(model)
    counts, real = [], fused_lora._computed
    monkeypatch.setattr(fused_lora, "_computed", lambda layers, x: counts.append(len(layers)) or real(layers, x))
    step(model)
    assert counts == [3, 1, 2, 1] * 2  # queries, keys and values; the output; gate and up; down


def test_ranks_and_scales_may_differ_between_layers_that_are_computed_together(tiny_model):
    plain = lora(tiny_model, rank_pattern={"k_proj": 2, "up_proj": 6}, alpha_pattern={"v_proj": 3})
    fused = copy.deepcopy(plain)
    fuse_lora(fused)
    wanted, wanted_gradients = step(plain)
    given, given_gradients = step(fused)
    torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-6)
    for name in wanted_gradients:
        torch.testing.assert_close(given_gradients[name], wanted_gradients[name], rtol=1e-4, atol=1e-7)


def test_a_layer_that_is_called_with_another_tensor_computes_for_itself(tiny_model):
    model = lora(tiny_model)
    attention = model.base_model.model.model.layers[0].self_attn
    x, other = torch.randn(2, 3, 5, attention.q_proj.in_features)
    expected = [attention.q_proj(x), attention.k_proj(other), attention.v_proj(x)]
    fuse_lora(model)
    for _ in range(3):  # the keys' layer leaves its part behind; after that each is computed alone
        found = [attention.q_proj(x), attention.k_proj(other), attention.v_proj(x)]
        for one, another in zip(found, expected, strict=True):
            torch.testing.assert_close(one, another)
    assert attention.q_proj.forward.func.__self__._pays is False
