"""Norms, rotary positions and gated layers in fused passes: the model's own numbers, or left alone."""

import pytest
import torch
from lessons import curve, done, lesson, write_rows
from peft import LoraConfig, get_peft_model
from tiny import make_tiny_chat_model, make_tiny_gpt2
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.llama import modeling_llama

from studio.recipe import Recipe
from studio.training.acceleration.fused_layers import FusedLayers
from studio.training.acceleration.layer_choices import choose_layers
from studio.training.choices import Choices

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
ALL = "{norms} norms, 2 gated layers, rotary positions"


def made(config, dtype=torch.float32):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(**SIZES), dtype=dtype)
    for name, weight in model.named_parameters():
        if "norm" in name:  # of ones a mistake would not show
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    return model.train()


def loss_and_gradients(model):
    ids = torch.randint(0, 64, (3, 11), generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("config", "norms"), [(LlamaConfig, 5), (MistralConfig, 5), (Qwen2Config, 5), (Qwen3Config, 9)]
)
@pytest.mark.parametrize("tuned", ["all weights", "lora"])
def test_the_loss_and_every_gradient_are_the_models_own(config, norms, dtype, tuned):
    model = made(config, dtype)
    if tuned == "lora":
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    layers = FusedLayers(model)
    assert str(layers) == ALL.format(norms=norms)
    usual, gradients = loss_and_gradients(model)
    with layers.in_place():
        assert modeling_llama.apply_rotary_pos_emb.__module__.endswith(
            "fused_layers" if config is LlamaConfig else "modeling_llama"
        )
        fused, others = loss_and_gradients(model)
    again, _ = loss_and_gradients(model)
    near = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 1e-2}
    torch.testing.assert_close(fused, usual, **near)
    assert again == usual, "the model's own passes are back"
    assert gradients.keys() == others.keys() and gradients
    for name, gradient in gradients.items():
        off = (gradient - others[name]).float().norm() / gradient.float().norm().clamp(min=1e-6)
        assert off < (1e-4 if dtype == torch.float32 else 0.1), (name, off)


def test_layers_with_quantised_weights_can_be_fused_too(tmp_path):
    from studio.models.load import load_model
    from studio.recipe import ModelSpec

    folder = make_tiny_chat_model(tmp_path / "model", hidden_size=64)
    model = load_model(ModelSpec(id=str(folder), quantization="nf4"), device="cpu", dtype="float32")
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).train()
    layers = FusedLayers(model)
    assert str(layers) == ALL.format(norms=5)
    usual, gradients = loss_and_gradients(model)
    with layers.in_place():
        fused, others = loss_and_gradients(model)
    torch.testing.assert_close(fused, usual)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-3, atol=1e-5)


def test_less_is_kept_for_the_backward_pass():
    model = made(LlamaConfig, torch.bfloat16)

    def kept() -> int:
        sizes: dict[int, int] = {}

        def keep(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            ids = torch.arange(60)[None]
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        return sum(sizes.values())

    usual = kept()
    with FusedLayers(model).in_place():
        assert kept() < 0.8 * usual


def test_what_computes_something_else_is_left_alone(tmp_path, monkeypatch):
    assert "norms" not in str(FusedLayers(made(Gemma2Config)))  # its norm multiplies by 1 + weight
    gpt2 = AutoModelForCausalLM.from_pretrained(make_tiny_gpt2(tmp_path / "gpt2"))
    assert not FusedLayers(gpt2)

    def scaled(self, x):
        return 2 * self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", scaled)
    usual = modeling_llama.apply_rotary_pos_emb
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", lambda q, k, cos, sin: usual(k, q, cos, sin)[::-1])
    assert str(FusedLayers(made(LlamaConfig))) == "5 norms, rotary positions"
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", lambda q, k, cos, sin: usual(q, k, sin, cos))
    assert str(FusedLayers(made(LlamaConfig))) == "5 norms"


def test_other_formats_than_the_weights_go_the_models_own_way():
    model = made(LlamaConfig, torch.bfloat16)
    norm = model.model.norm
    x = torch.randn(2, 32)
    usual = norm(x)
    with FusedLayers(model).in_place():
        assert torch.equal(norm(x), usual) and usual.dtype == torch.float32
        q = torch.randn(1, 2, 3, 8, dtype=torch.bfloat16)
        angles = torch.randn(1, 3, 8)
        turned = modeling_llama.apply_rotary_pos_emb(q, q, angles.cos(), angles.sin())[0]
        assert turned.dtype == torch.float32


def test_without_gradients_the_model_goes_its_own_way():
    model = made(LlamaConfig, torch.bfloat16).eval()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        usual = model(input_ids=ids, use_cache=False).logits
        with FusedLayers(model).in_place():
            assert torch.equal(model(input_ids=ids, use_cache=False).logits, usual)


@pytest.mark.usefixtures("home")
def test_a_run_learns_the_same_either_way(tiny_model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl")
    fused, plain = (done(lesson(tiny_model, rows, fused_passes=value)) for value in (True, False))
    for kind in ("step", "eval"):
        for (step, loss), (other_step, other) in zip(curve(fused, kind), curve(plain, kind), strict=True):
            assert step == other_step and loss == pytest.approx(other, rel=1e-4)
    said = [{c["what"]: c["chosen"] for c in started(run)["choices"]} for run in (fused, plain)]
    assert "norms" in said[0]["norms, rotary positions, gated layers"] and "LoRA pass" in said[0]
    assert said[1]["norms, rotary positions, gated layers"] == "as they are" and "LoRA pass" not in said[1]


def started(run):
    return next(event for event in run.events() if event["kind"] == "started")


@pytest.mark.parametrize(
    ("device", "change", "word"),
    [
        ("cuda", {}, "CPUs"),
        ("cpu", {"train": {"distributed": "fsdp"}}, "several processes"),
    ],
)
def test_where_they_are_not_used_the_reason_is_said(device, change, word, tiny_model):
    choices = Choices()
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with choose_layers(choices, Recipe.parse(change), model, device)():
        assert "forward" not in vars(model.model.norm)
    assert word in choices.told[0]["why"] and choices.told[0]["chosen"] == "as they are"
