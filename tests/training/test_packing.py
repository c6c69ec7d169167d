"""Packed rows: the loss and the gradients of the examples by themselves, or no packing."""

from __future__ import annotations

import pytest
import torch
from lessons import done, lesson, write_rows
from tiny import make_tiny_chat_model, make_tiny_gpt2
from torch.nn import functional
from transformers import AutoModelForCausalLM

from studio.data import Encoded
from studio.errors import StudioError
from studio.export import refusal
from studio.models.head import LabelledLogits
from studio.training.forecast import forecast
from studio.training.packing import check_apart, packed

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
