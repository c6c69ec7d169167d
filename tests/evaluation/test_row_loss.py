"""The loss is that of training, token by token, however rows are batched."""

from __future__ import annotations

import pytest
import torch

from studio.data import Encoded, encode_conversation
from studio.evaluation.row_loss import RowLoss, foretold_answer, row_losses

ROWS = [
    ("What is the capital of France?", "The capital of France is Paris."),
    ("My order number 48213 has not arrived; please tell me where it is.", "On its way."),
    ("Write a function that adds two numbers.", "def add(a, b): return a + b"),
    ("Hi", "Hello! " * 6),
]


@pytest.fixture
def rows(engine, base):
    tokenizer = engine.open(base).tokenizer
    pairs = [[{"role": "user", "content": u}, {"role": "assistant", "content": a}] for u, a in ROWS]
    return [encode_conversation(tokenizer, messages) for messages in pairs]


def by_hand(model, encoded) -> tuple[float, int]:
    """Log-likelihoods read off the full table of one row, token by token."""
    with torch.no_grad():
        table = torch.log_softmax(model(torch.tensor([encoded.input_ids])).logits[0].float(), dim=-1)
    places = [i for i, label in enumerate(encoded.labels) if i > 0 and label != -100]
    return -sum(table[i - 1, encoded.labels[i]].item() for i in places), len(places)


@pytest.mark.parametrize("target", ["base", "one", "full"])
def test_the_loss_of_each_row_is_that_computed_by_hand(workspace, models, engine, base, rows, target):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(models["full" if target == "full" else "base"]).eval()
    if target == "one":
        model = PeftModel.from_pretrained(model, models["one"]).eval()
    found = row_losses(engine.open(base if target == "base" else target), rows)
    for loss, encoded in zip(found, rows, strict=True):
        total, tokens = by_hand(model, encoded)
        assert loss.tokens == tokens
        assert loss.total == pytest.approx(total, rel=1e-5)


def test_it_is_the_loss_that_transformers_computes_from_the_same_labels(workspace, engine, base, rows):
    handle = engine.open(base)
    for loss, encoded in zip(row_losses(handle, rows), rows, strict=True):
        ids, labels = torch.tensor([encoded.input_ids]), torch.tensor([encoded.labels])
        assert loss.total / loss.tokens == pytest.approx(handle.weights.model(ids, labels=labels).loss.item(), rel=1e-5)


@pytest.mark.parametrize("limits", [{"max_tokens": 1}, {"max_tokens": 90}, {"max_logits": 1}, {"max_logits": 20_000}])
def test_batching_does_not_change_the_loss(workspace, engine, base, rows, limits):
    handle, done = engine.open(base), []
    together = row_losses(handle, rows)
    apart = row_losses(handle, rows, done.append, **limits)
    assert [r.total for r in apart] == pytest.approx([r.total for r in together], rel=1e-5)
    assert [r.tokens for r in apart] == [r.tokens for r in together]
    assert len(done) > 1 and done[-1] == len(rows)


def test_measuring_leaves_no_hook_on_the_model(workspace, engine, base, rows):
    handle = engine.open(base)
    head = handle.weights.model.get_output_embeddings()
    before = dict(head._forward_pre_hooks)
    row_losses(handle, rows)
    assert head._forward_pre_hooks == before


@pytest.mark.parametrize(
    "labels, likeliest, prompt, answer",
    [
        ([-100, -100, 5, 6, 9], [5, 6, 9], [1, 2], [5, 6]),
        ([-100, -100, 5, 6, 9], [5, 7, 9], [1, 2], None),  # another word
        ([-100, -100, 5, 6, 9], [5, 6, 8], [1, 2], None),  # it would not have ended there
        ([-100, -100, 5, 6, -100], [5, 6], [1, 2], None),  # nothing is known about its end
        ([-100, -100, 5, 6, 9], [5, 6, 9], [1, 3], None),  # generation would start from something else
        ([-100, 2, 5, 6, 9], [4, 5, 6, 9], [1, 2], [5, 6]),  # what it makes of the prompt does not matter
    ],
)
def test_an_answer_is_foretold_only_if_every_token_up_to_its_end_is_the_likeliest(labels, likeliest, prompt, answer):
    row = Encoded(input_ids=[1, 2, 5, 6, 9], labels=labels)
    assert foretold_answer(row, prompt, RowLoss(0.0, len(likeliest), likeliest), frozenset({9})) == answer
