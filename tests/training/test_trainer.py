"""The trainer: its loss is the loss of the full logits, and its batches are the encoder's tokens and labels."""

import math

import pytest
import torch
from lessons import lesson, write_rows
from tiny import make_tiny_gpt2
from torch.nn import functional
from transformers import AutoModelForCausalLM

from studio.data import encode_rows, load_conversations, split_conversations
from studio.recipe import Recipe
from studio.runs import EventLog, Run, list_runs
from studio.training.trainer import build_trainer, labelled_loss

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="session")
def models(tiny_model, tmp_path_factory):
    return {"llama": tiny_model, "gpt2": make_tiny_gpt2(tmp_path_factory.mktemp("models") / "gpt2")}


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
    base = model.get_base_model() if method == "lora" else model
    return model.train(), base.get_output_embeddings()


def gradients(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_loss_at_labelled_positions_is_that_of_the_full_logits_in_value_and_gradient(models, family, method):
    model, head = prepared(models[family], method)
    model.eval()  # GPT-2 has dropout
    inputs = batch(model.config.vocab_size)
    expected = full_loss(model, inputs)
    expected_gradients = gradients(model, expected)
    loss, count = labelled_loss(model, head, inputs)
    assert count == int((inputs["labels"][:, 1:] != -100).sum())
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    found = gradients(model, loss)
    assert found.keys() == expected_gradients.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-6)


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


@pytest.fixture
def built(tiny_model, tiny_tokenizer, tmp_path):
    """Builds the trainer of a recipe, and the encoded rows that it was given."""

    def build(count: int = 12, **settings):
        recipe: Recipe = lesson(tiny_model, write_rows(tmp_path / "rows.jsonl", count), **settings)
        run = Run.create(recipe)
        training, held_out = split_conversations(load_conversations(recipe.data), recipe.data.holdout, 0)
        examples, _ = encode_rows(tiny_tokenizer, training, recipe.data)
        others, _ = encode_rows(tiny_tokenizer, held_out, recipe.data)
        trainer = build_trainer(
            run=run,
            recipe=recipe,
            log=EventLog(run.events_path),
            model=AutoModelForCausalLM.from_pretrained(tiny_model),
            tokenizer=tiny_tokenizer,
            examples=examples,
            held_out=others,
            device="cpu",
        )
        return trainer, examples, others

    return build


def rows_of(batch) -> list[tuple[list[int], list[int]]]:
    """The rows of a batch as (ids, labels), the padding taken off; the padding itself must carry no loss."""
    rows = []
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        length = int(mask.sum())
        assert mask[:length].all()
        assert (labels[length:] == -100).all()
        rows.append((ids[:length].tolist(), labels[:length].tolist()))
    return rows


@pytest.mark.parametrize("group_by_length", [True, False])
def test_an_epoch_of_training_batches_is_every_encoded_example_token_by_token(built, group_by_length):
    trainer, examples, _ = built(40, group_by_length=group_by_length, per_device_train_batch_size=4)
    seen = [row for batch in trainer.get_train_dataloader() for row in rows_of(batch)]
    assert sorted(seen) == sorted((e.input_ids, e.labels) for e in examples)


def test_the_validation_batches_are_the_encoded_held_out_examples(built):
    trainer, _, others = built()
    seen = [row for batch in trainer.get_eval_dataloader() for row in rows_of(batch)]
    assert sorted(seen) == sorted((e.input_ids, e.labels) for e in others)


def test_grouping_by_length_leaves_less_padding(built):
    def padding(group_by_length: bool) -> int:
        trainer, _, _ = built(60, group_by_length=group_by_length, per_device_train_batch_size=4)
        return sum(int((batch["attention_mask"] == 0).sum()) for batch in trainer.get_train_dataloader())

    assert padding(True) < padding(False)


def test_batches_hold_nothing_but_what_the_model_takes(built):
    trainer, _, _ = built()
    assert set(next(iter(trainer.get_train_dataloader()))) == {"input_ids", "attention_mask", "labels"}


def test_the_validation_loss_is_the_mean_over_all_labelled_tokens(built):
    trainer, _, others = built(20, per_device_eval_batch_size=3)
    model = trainer.model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for example in others:  # one by one: no batch, no padding
            logits = model(input_ids=torch.tensor([example.input_ids])).logits[0].log_softmax(-1)
            for position, label in enumerate(example.labels[1:]):
                if label != -100:
                    total, count = total - logits[position, label].item(), count + 1
    assert trainer.evaluate()["eval_loss"] == pytest.approx(total / count, rel=1e-5)
    event = list_runs()[0].events()[-1]
    assert (event["kind"], event["tokens"]) == ("eval", count)
    assert event["perplexity"] == pytest.approx(math.exp(event["loss"]))


def test_evaluating_leaves_the_model_in_training(built):
    trainer, _, _ = built()
    trainer.model.train()
    trainer.evaluate()
    assert trainer.model.training


@pytest.mark.parametrize(
    ("count", "settings"),
    [
        (12, {"max_steps": 4}),
        (12, {"max_steps": -1, "num_train_epochs": 1}),
        (13, {"max_steps": -1, "num_train_epochs": 2, "gradient_accumulation_steps": 3}),
        (12, {"max_steps": -1, "num_train_epochs": 0.5}),
        (12, {"max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": 100}),
        (30, {"max_steps": -1, "num_train_epochs": 1.3, "gradient_accumulation_steps": 2}),
    ],
)
def test_the_planned_steps_are_those_that_are_taken(built, count, settings):
    trainer, _, _ = built(count, **settings)
    planned = trainer.planned_steps()
    trainer.train()
    assert trainer.state.global_step == planned


def test_the_loss_of_accumulated_batches_is_that_of_one_large_batch(built):
    losses = []
    for settings in (
        {"per_device_train_batch_size": 4},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    ):
        trainer, _, _ = built(20, max_steps=2, group_by_length=False, eval_steps=0, **settings)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
