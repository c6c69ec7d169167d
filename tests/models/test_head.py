"""The loss from logits at labelled positions, and of a batch as one row, is the loss of the full logits."""

import pytest
import torch
from tiny import make_tiny_gpt2
from torch.nn import functional
from transformers import AutoModelForCausalLM

from studio.models.head import LabelledLogits, contiguous_head_input, saves, shared_prefix


@pytest.fixture(scope="session")
def models(tiny_model, tmp_path_factory):
    return {"llama": tiny_model, "gpt2": make_tiny_gpt2(tmp_path_factory.mktemp("models") / "gpt2")}


def labelled_loss(model, head, inputs):
    logits, targets, _ = head(**inputs)
    return functional.cross_entropy(logits.float(), targets, reduction="sum"), targets.numel()


def batch(vocabulary: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Three rows of 12 tokens, padded on the right, with loss on about half of them and none on the last row."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(0, vocabulary, (3, 12), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 7:] = 0
    labels = torch.where(torch.rand(3, 12, generator=generator) < 0.5, input_ids, -100)
    labels[attention_mask == 0] = -100
    labels[2] = -100
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def full_loss(model, inputs) -> torch.Tensor:
    """Summed cross-entropy from all logits, as written in the textbook."""
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    return functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]), inputs["labels"][:, 1:].reshape(-1), reduction="sum"
    )


def prepared(folder, method: str):
    """A model in double precision, full or with a LoRA whose second matrix is not zero, and its output head."""
    model = AutoModelForCausalLM.from_pretrained(folder).double()
    if method == "lora":
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        model = get_peft_model(
            model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear", init_lora_weights=False)
        ).double()
    return model.train(), LabelledLogits(model)


def loss_and_gradients(model, loss: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_the_same(model, loss: torch.Tensor, expected: tuple[torch.Tensor, dict[str, torch.Tensor]]) -> None:
    value, found = loss_and_gradients(model, loss)
    torch.testing.assert_close(value.double(), expected[0], rtol=1e-6, atol=0)
    assert found.keys() == expected[1].keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_loss_at_labelled_positions_is_that_of_the_full_logits_in_value_and_gradient(models, family, method):
    model, head = prepared(models[family], method)
    model.eval()  # GPT-2 has dropout
    inputs = batch(model.config.vocab_size)
    expected = loss_and_gradients(model, full_loss(model, inputs))
    loss, count = labelled_loss(model, head, inputs)
    assert count == int((inputs["labels"][:, 1:] != -100).sum())
    assert_the_same(model, loss, expected)


def test_the_head_sees_every_position_again_after_the_loss(models):
    model, head = prepared(models["llama"], "full")
    inputs = batch(model.config.vocab_size)
    labelled_loss(model, head, inputs)
    assert model(input_ids=inputs["input_ids"]).logits.shape[:2] == (3, 12)


def test_a_batch_without_labels_has_no_loss(models):
    model, head = prepared(models["llama"], "full")
    inputs = batch(model.config.vocab_size)
    inputs["labels"] = torch.full_like(inputs["labels"], -100)
    loss, count = labelled_loss(model, head, inputs)
    assert (loss.item(), count) == (0.0, 0)


def alike(vocabulary: int, shared: int = 16) -> dict[str, torch.Tensor]:
    """Three rows of different length that begin with the same tokens; loss on what follows."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(0, vocabulary, (3, 26), generator=generator)
    input_ids[:, :shared] = input_ids[0, :shared]
    input_ids[1, shared] = (input_ids[0, shared] + 1) % vocabulary  # they differ from here on
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 20:] = 0
    labels = input_ids.masked_fill(attention_mask == 0, -100)
    labels[:, : shared + 2] = -100
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_shared_beginning_is_computed_once_and_changes_neither_loss_nor_gradients(models, method):
    model, head = prepared(models["llama"], method)
    inputs = alike(model.config.vocab_size)
    expected = loss_and_gradients(model, full_loss(model, inputs))
    widths = []
    hook = model.get_input_embeddings().register_forward_hook(lambda m, a, out: widths.append(tuple(out.shape[:2])))
    labelled_loss(model, head, inputs)  # the first batch is computed both ways on two rows
    assert head.one_row is True
    widths.clear()
    loss, _ = labelled_loss(model, head, inputs)
    hook.remove()
    assert widths == [(1, 48)]  # 16 together, then 10, 4 and 10, and padding on the way to 48
    assert_the_same(model, loss, expected)


def test_a_beginning_that_carries_loss_or_padding_is_not_shared():
    inputs = alike(50)
    ids, attention = inputs["input_ids"], inputs["attention_mask"]
    mask = functional.pad(inputs["labels"], (0, 1), value=-100)[:, 1:] != -100
    assert shared_prefix(ids, attention, mask) == 16
    labelled = mask.clone()
    labelled[2, 3] = True
    assert shared_prefix(ids, attention, labelled) == 3
    padded = attention.clone()
    padded[1, 5:] = 0
    assert shared_prefix(ids, padded, mask) == 5
    assert shared_prefix(ids[:1], attention[:1], mask[:1]) == 0


def test_a_batch_is_one_row_where_that_saves_enough():
    ids = torch.randint(1, 50, (4, 30), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = torch.arange(4)
    attention, mask = torch.ones_like(ids), torch.ones_like(ids, dtype=torch.bool)
    assert saves(ids, attention, mask) is None  # nothing in common, no padding
    attention[2, -5:] = 0
    assert saves(ids, attention, mask) is None  # 5 of 120
    attention[3, -1:] = 0
    assert saves(ids, attention, mask) == 0  # 6 of 120


def test_a_model_with_dropout_gets_padded_rows(models):
    _, head = prepared(models["gpt2"], "full")
    assert head.one_row is False


def test_behind_virtual_tokens_rows_are_padded(models):
    from peft import PromptTuningConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(models["llama"])
    model = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    assert LabelledLogits(model).one_row is False


def test_a_model_that_answers_otherwise_from_one_row_gets_padded_rows(models, monkeypatch):
    model, head = prepared(models["llama"], "full")
    wrong = torch.nn.Linear(1, 1)  # stands for a model that is not told where a row begins
    monkeypatch.setattr(
        LabelledLogits,
        "_as_one_row",
        lambda self, model, ids, attention, mask, shared: self._whole(model, ids, attention, mask) * 2 + wrong.bias,
    )
    inputs = alike(model.config.vocab_size)
    loss, _ = labelled_loss(model, head, inputs)
    assert head.one_row is False
    torch.testing.assert_close(loss.double(), full_loss(model, inputs), rtol=1e-6, atol=0)


def test_a_first_batch_without_labels_leaves_the_question_to_the_next(models):
    model, head = prepared(models["llama"], "full")
    inputs = alike(model.config.vocab_size)
    unlabelled = {**inputs, "labels": torch.full_like(inputs["labels"], -100)}
    assert labelled_loss(model, head, unlabelled)[1] == 0
    assert head.one_row is None
    labelled_loss(model, head, inputs)
    assert head.one_row is True


def test_recomputed_activations_find_their_rows_again(models):
    model, head = prepared(models["llama"], "lora")
    inputs = alike(model.config.vocab_size)
    expected = loss_and_gradients(model, full_loss(model, inputs))
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    loss, _ = labelled_loss(model, head, inputs)
    assert head.one_row is True
    assert_the_same(model, loss, expected)


def test_the_head_reads_the_last_states_as_a_tensor_of_their_own(models):
    model = AutoModelForCausalLM.from_pretrained(models["llama"])
    head, seen = model.get_output_embeddings(), []
    inputs = batch(model.config.vocab_size)["input_ids"]
    expected = model(input_ids=inputs, logits_to_keep=1).logits
    as_before = contiguous_head_input(model)
    hook = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].stride()))
    torch.testing.assert_close(model(input_ids=inputs, logits_to_keep=1).logits, expected)
    torch.testing.assert_close(model(input_ids=inputs[:1], logits_to_keep=1).logits, expected[:1])
    hook.remove()
    as_before()
    width = model.config.hidden_size
    assert seen == [(width, width, 1)] * 2
    assert not head._forward_pre_hooks
