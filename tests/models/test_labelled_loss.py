"""The loss from the states before the head is that of the full logits, in value and gradient, and costs less memory."""

import pytest
import torch
from test_head import assert_the_same, batch, full_loss, loss_and_gradients
from tiny import make_tiny_gpt2
from torch.nn import functional
from transformers import AutoModelForCausalLM

from studio.models import labelled_loss as loss_module
from studio.models.labelled_loss import LabelledLoss


@pytest.fixture(scope="session")
def families(tiny_model, tmp_path_factory):
    return {"llama": tiny_model, "gpt2": make_tiny_gpt2(tmp_path_factory.mktemp("models") / "gpt2")}


def loaded(folder, method: str = "full"):
    model = AutoModelForCausalLM.from_pretrained(folder).double()
    if method == "lora":
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        settings = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(model, settings).double()
    return model.eval()  # GPT-2 has dropout


@pytest.mark.parametrize("positions", [3, 64])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_loss_and_its_gradients_are_those_of_the_full_logits(families, family, method, positions, monkeypatch):
    monkeypatch.setattr(loss_module, "block_positions", lambda *_: positions)  # 3: in several blocks
    model = loaded(families[family], method)
    inputs = batch(model.config.vocab_size)
    expected = loss_and_gradients(model, full_loss(model, inputs))
    loss_of = LabelledLoss(model)
    loss, count = loss_of(**inputs)
    assert loss_of.skips_logits is True
    assert loss_of.logits.needs_mask is False
    assert count == int((inputs["labels"][:, 1:] != -100).sum())
    assert_the_same(model, loss, expected)


def test_smoothed_labels_are_those_of_pytorch(families):
    model = loaded(families["llama"])
    inputs = batch(model.config.vocab_size)
    loss_of = LabelledLoss(model)
    loss, _ = loss_of(**inputs, label_smoothing=0.2)
    value, mine = loss_and_gradients(model, loss)
    logits, targets, _ = loss_of.logits(**inputs)
    expected = functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=0.2)
    expected, theirs = loss_and_gradients(model, expected)
    torch.testing.assert_close(value, expected)
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient)


@pytest.mark.parametrize("bias", [False, True])
def test_a_half_precision_head_gives_the_gradients_of_the_logits_to_its_last_digit(bias):
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 40, bias=bias).bfloat16()
    states, targets = torch.randn(9, 16).bfloat16().requires_grad_(), torch.randint(0, 40, (9,))
    functional.cross_entropy(head(states).float(), targets, reduction="sum").backward()
    leaves = [states, *head.parameters()]
    expected = [leaf.grad.clone() for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    loss_module._HeadLoss.apply(states, head.weight, head.bias, targets, 0.0).backward()
    for leaf, gradient in zip(leaves, expected, strict=True):
        torch.testing.assert_close(leaf.grad, gradient, rtol=1.6e-2, atol=1e-3)


def test_a_model_that_caps_its_logits_takes_the_loss_from_them(families):
    model = loaded(families["llama"])
    forward = model.forward

    def capped(*arguments, **options):
        output = forward(*arguments, **options)
        output.logits = 0.1 * torch.tanh(output.logits / 0.1)
        return output

    model.forward = capped
    inputs = batch(model.config.vocab_size)
    loss_of = LabelledLoss(model)
    loss, _ = loss_of(**inputs)
    assert loss_of.skips_logits is False
    torch.testing.assert_close(loss.double(), full_loss(model, inputs).double(), rtol=1e-6, atol=0)


def test_a_model_that_sees_padding_keeps_its_mask(families):
    model = loaded(families["llama"])
    forward = model.forward

    def looks_ahead(*arguments, attention_mask=None, **options):
        output = forward(*arguments, attention_mask=attention_mask, **options)
        if attention_mask is None:
            output.logits = output.logits + torch.arange(output.logits.shape[-1])
        return output

    model.forward = looks_ahead
    inputs = batch(model.config.vocab_size)
    loss_of = LabelledLoss(model)
    loss, _ = loss_of(**inputs)
    assert loss_of.logits.needs_mask is True
    torch.testing.assert_close(loss.double(), full_loss(model, inputs).double(), rtol=1e-6, atol=0)


def test_a_batch_without_labels_has_no_loss_and_decides_nothing(families):
    model = loaded(families["llama"])
    inputs = batch(model.config.vocab_size)
    loss_of = LabelledLoss(model)
    loss, count = loss_of(**{**inputs, "labels": torch.full_like(inputs["labels"], -100)})
    assert (loss.item(), count, loss_of.skips_logits) == (0.0, 0, None)
    loss_of(**inputs)
    assert loss_of.skips_logits is True


def test_weights_that_are_spread_over_processes_are_left_alone(families):
    loss_of = LabelledLoss(loaded(families["llama"]), whole_head=False)
    assert (loss_of.skips_logits, loss_of.logits.needs_mask) == (False, True)


def test_a_head_with_an_adapter_of_its_own_is_called(families):
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(families["llama"])
    settings = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["lm_head"])
    assert LabelledLoss(get_peft_model(model, settings)).skips_logits is False


def test_trying_out_leaves_dropout_and_the_random_numbers_of_the_training_alone(families):
    model = AutoModelForCausalLM.from_pretrained(families["gpt2"]).train()
    before = torch.get_rng_state()
    loss_of = LabelledLoss(model)
    inputs = batch(model.config.vocab_size)
    assert loss_of._same_both_ways(inputs["input_ids"], inputs["attention_mask"], inputs["labels"]) is True
    assert torch.equal(before, torch.get_rng_state())
    assert all(module.training for module in model.modules())
