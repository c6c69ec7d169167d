"""The trainer: its loss is the loss of the full logits, and its batches are the encoder's tokens and labels."""

import math
from types import SimpleNamespace

import pytest
import torch
from lessons import lesson, write_rows
from transformers import AutoModelForCausalLM

from studio.data import encode_rows, load_conversations, split_conversations
from studio.recipe import Recipe
from studio.runs import EventLog, Run, list_runs
from studio.training.trainer import build_trainer

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def built(tiny_model, tiny_tokenizer, tmp_path):
    """Builds the trainer of a recipe, and the encoded rows that it was given."""

    def build(count: int = 12, dtype: str = "float32", **settings):
        recipe: Recipe = lesson(tiny_model, write_rows(tmp_path / "rows.jsonl", count), **settings)
        run = Run.create(recipe)
        training, held_out = split_conversations(load_conversations(recipe.data), recipe.data, 0)
        examples, _ = encode_rows(tiny_tokenizer, training, recipe.data)
        others, _ = encode_rows(tiny_tokenizer, held_out, recipe.data)
        trainer = build_trainer(
            run=run,
            recipe=recipe,
            log=EventLog(run.events_path),
            model=AutoModelForCausalLM.from_pretrained(tiny_model, dtype=getattr(torch, dtype)),
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_batches_have_few_widths_where_each_costs_kernels_of_its_own(built, dtype):
    trainer, examples, _ = built(40, dtype=dtype, per_device_train_batch_size=4)
    batches = list(trainer.get_train_dataloader())
    assert sorted(row for batch in batches for row in rows_of(batch)) == sorted(
        (e.input_ids, e.labels) for e in examples
    )
    assert all(batch["input_ids"].shape[1] % 8 == 0 for batch in batches) == (dtype == "bfloat16")


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


def test_batches_hold_what_the_model_takes_and_which_examples_they_are(built):
    trainer, examples, _ = built()
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch) == {"input_ids", "attention_mask", "labels", "examples", "labelled"}
    assert batch["labelled"] == (batch["labels"][:, 1:] != -100).sum()
    for number, ids in zip(batch["examples"], batch["input_ids"].tolist(), strict=True):
        assert ids[: len(examples[number].input_ids)] == examples[number].input_ids


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


def test_a_run_may_share_the_beginning_of_its_rows(built):
    trainer, _, _ = built()
    assert trainer.loss.logits.one_row is None  # the first batch decides; False would never


def test_of_two_ranks_the_last_batch_of_an_epoch_has_no_row_twice(built, monkeypatch):
    """Accelerate fills the batches of the last step up with rows of the beginning."""
    trainer = built(40, per_device_train_batch_size=4)[0]
    batch = {"input_ids": torch.arange(4)[:, None], "labels": torch.ones(4, 5, dtype=torch.long)}
    state = SimpleNamespace(end_of_dataloader=True)
    monkeypatch.setattr(trainer.accelerator, "gradient_state", state)
    monkeypatch.setattr("studio.training.ranks.count", lambda: 2)
    kept = {}
    for left in (0, 3, 6):  # rows of the last step, for two ranks with four each
        trainer.train_dataset = range(16 + left)
        for rank in (0, 1):
            monkeypatch.setattr("studio.training.ranks.rank", lambda rank=rank: rank)
            kept[left, rank] = trainer._without_filling(batch)["labels"]
    assert {key: len(labels) for key, labels in kept.items()} == {
        **{(0, 0): 4, (0, 1): 4, (6, 0): 4, (6, 1): 2},
        **{(3, 0): 3, (3, 1): 1},  # the second rank has none, and keeps one without loss
    }
    assert (kept[3, 1] == -100).all()
    state.end_of_dataloader = False
    assert len(trainer._without_filling(batch)["labels"]) == 4


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch"])
def test_adam_remembers_as_long_as_the_recipe_says(built, optim):
    trainer, _, _ = built(adam_beta1=0.8, adam_beta2=0.95, optim=optim)
    optimizer = trainer.create_optimizer()
    assert all(group["betas"] == (0.8, 0.95) for group in optimizer.param_groups)
