"""Packed rows: the loss and the gradients of the examples by themselves, or no packing."""

from __future__ import annotations

import pytest
import torch
from lessons import curve, done, lesson, write_rows
from tiny import make_tiny_chat_model, make_tiny_gpt2
from torch.nn import functional
from transformers import AutoModelForCausalLM

from studio.data import Encoded
from studio.errors import StudioError
from studio.export import refusal
from studio.models.head import LabelledLogits
from studio.recipe import Recipe
from studio.training.choices import Choices, choose_padding
from studio.training.packing import check_apart, packed, without_padding
from studio.training.run_estimate import forecast

pytestmark = pytest.mark.usefixtures("home")


def examples(count: int = 7) -> list[Encoded]:
    draw = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        ids = torch.randint(5, 300, (4 + 3 * number,), generator=draw).tolist()
        labels = [-100 if number % 2 and place < 3 else token for place, token in enumerate(ids)]
        made.append(Encoded(input_ids=ids, labels=labels, text="", offsets=[], cut=0, row=number))
    return made


def batch(rows):
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    return DataCollatorForLanguageModeling(pad_token_id=0, return_position_ids=True)(rows)


def summed(model, inputs, packing: bool):
    logits, targets, _ = LabelledLogits(model)(
        inputs["input_ids"],
        inputs["attention_mask"],
        inputs["labels"],
        position_ids=inputs["position_ids"] if packing else None,
    )
    return functional.cross_entropy(logits, targets, reduction="sum"), targets.numel()


@pytest.mark.parametrize("make", [make_tiny_chat_model, make_tiny_gpt2])
def test_loss_and_gradients_are_those_of_the_examples_by_themselves(make, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(make(tmp_path / "model"), dtype=torch.float32).eval()
    every = examples()
    rows = packed(every, 30)
    assert 1 < len(rows) < len(every)
    assert sum(len(row["seq_lengths"]) for row in rows) == len(every)
    loss, count = summed(model, batch(rows), packing=True)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    alone, tokens = 0.0, 0
    for example in every:
        one, own = summed(model, batch([{"input_ids": example.input_ids, "labels": example.labels}]), packing=False)
        one.backward()
        alone, tokens = alone + one.item(), tokens + own
    assert count == tokens
    assert loss.item() == pytest.approx(alone, rel=1e-5)
    assert gradients
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make", [make_tiny_chat_model, make_tiny_gpt2])
def test_a_batch_without_padding_has_the_loss_and_gradients_of_the_padded_one(make, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(make(tmp_path / "model"), dtype=torch.float32).eval()
    inputs = batch([{"input_ids": each.input_ids, "labels": each.labels} for each in examples()])
    padded, count = summed(model, inputs, packing=False)
    padded.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    names = ("input_ids", "attention_mask", "labels")
    flat = dict(zip([*names, "position_ids"], without_padding(*(inputs[name] for name in names)), strict=True))
    assert flat["input_ids"].shape == (1, int(inputs["attention_mask"].sum()))
    loss, tokens = summed(model, flat, packing=True)
    loss.backward()
    assert tokens == count and loss.item() == pytest.approx(padded.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-4)


def test_a_run_without_padding_is_the_run_with_it(tiny_model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl")
    with_it, without = (done(lesson(tiny_model, rows, padding_free=value)) for value in ("off", "on"))
    for kind in ("step", "eval"):
        assert curve(with_it, kind)
        for (step, loss), (other_step, other) in zip(curve(with_it, kind), curve(without, kind), strict=True):
            assert step == other_step and loss == pytest.approx(other, rel=1e-3)
    started = next(e for e in without.events() if e["kind"] == "started")
    assert {"what": "padding", "chosen": "none", "by": "recipe", "why": "As the recipe says."} in started["choices"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"train": {"packing": True}}, "packing"),
        ({"method": {"kind": "prompt_tuning"}}, "vectors"),
        ({"model": {"task": "seq_cls"}}, "classifier"),
        ({"train": {"neftune_noise_alpha": 5}}, "NEFTune"),
    ],
)
def test_what_needs_rows_of_its_own_is_refused_and_never_chosen(change, word, tiny_model):
    asked = Recipe.parse({**change, "train": {**change.get("train", {}), "padding_free": "on"}})
    [problem] = [each for each in asked.problems() if each.field == "train.padding_free"]
    assert word.lower() in problem.what.lower()
    choices = Choices()
    choices.say("attention", "flash_attention_2", "")
    assert not choose_padding(choices, Recipe.parse(change), None, examples())
    assert word.lower() in choices.told[-1]["why"].lower()


def test_padding_is_left_out_by_itself_only_where_the_kernel_skips_what_others_would_see(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    for kernel, expected in (("sdpa", False), ("flash_attention_2", True)):
        choices = Choices()
        choices.say("attention", kernel, "")
        assert choose_padding(choices, Recipe(), model, examples()) is expected
        assert choices.chosen("padding") == ("none" if expected else "kept")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_looks_across_is_refused_with_the_field(tiny_model, dtype):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype)
    check_apart(model, examples())

    class Deaf(torch.nn.Module):
        """Takes the positions and gives them to nobody, as a model of its own code might."""

        def __init__(self):
            super().__init__()
            self.inner, self.device = model, model.device

        def forward(self, input_ids, position_ids=None, use_cache=False):
            return self.inner(input_ids=input_ids, use_cache=use_cache)

    class Without(Deaf):
        def forward(self, input_ids, use_cache=False):
            return self.inner(input_ids=input_ids, use_cache=use_cache)

    for broken in (Deaf(), Without()):
        with pytest.raises(StudioError, match="does not keep packed rows apart") as caught:
            check_apart(broken, examples())
        assert caught.value.field == "train.packing"


def test_a_run_packs_as_the_forecast_says(tiny_model, tmp_path):
    recipe = lesson(tiny_model, write_rows(tmp_path / "rows.jsonl", 40), packing=True, max_steps=-1, num_train_epochs=2)
    run = done(recipe)
    started = next(e for e in run.events() if e["kind"] == "started")
    assert started["packed_rows"] < started["rows"]
    steps = [e for e in run.events() if e["kind"] == "step"]
    assert forecast(recipe).steps == started["max_steps"] == len(steps) == run.events()[-1]["step"]
    assert steps[-1]["tokens"] == 2 * started["tokens"]  # every token of every row, in both epochs
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_there_is_no_plain_script_of_a_packed_run(tiny_model, tmp_path):
    reason = refusal(lesson(tiny_model, write_rows(tmp_path / "rows.jsonl"), packing=True), "script")
    assert reason is not None and "packs rows" in reason.what


def test_a_loss_that_is_not_a_number_names_the_rows_inside(tiny_model, tmp_path, monkeypatch):
    from studio.training.trainer import StudioTrainer

    recipe = lesson(tiny_model, write_rows(tmp_path / "rows.jsonl", 12), packing=True)
    monkeypatch.setattr(StudioTrainer, "penalty", lambda self: float("nan") if self.model.training else 0.0)
    run = done(recipe, "failed")
    failed = run.events()[-1]
    assert failed["reason"] == "diverged", failed
    assert len(failed["rows"]) > 2  # a batch of two rows has more examples than two
