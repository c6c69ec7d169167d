"""The fused LoRA pass is PEFT's, in value and in gradient, and keeps out of what it does not cover."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from studio.training.fused_lora import fuse_lora


def lora(folder, **options):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start, which would hide errors
                parameter.normal_(std=0.1)
    return model.train()


def step(model):
    torch.manual_seed(1)
    ids = torch.randint(0, 300, (2, 7))
    logits = model(input_ids=ids).logits
    logits.square().mean().backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


def test_values_and_gradients_equal_those_of_peft(tiny_model):
    plain = lora(tiny_model)
    fused = copy.deepcopy(plain)
    assert fuse_lora(fused) == 14  # seven linear layers in each of two blocks
    wanted, wanted_gradients = step(plain)
    given, given_gradients = step(fused)
    torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-6)
    assert given_gradients.keys() == wanted_gradients.keys()
    for name in wanted_gradients:
        torch.testing.assert_close(given_gradients[name], wanted_gradients[name], rtol=1e-4, atol=1e-7)


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


@pytest.mark.parametrize("options", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_variants_are_left_to_peft(tiny_model, options):
    assert fuse_lora(lora(tiny_model, **options)) == 0
