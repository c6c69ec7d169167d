"""A run that goes wrong stops with its reason and its rows, and what looks wrong is told with its step."""

import json

import pytest
import torch
from lessons import curve, done, lesson, write_rows
from safetensors.torch import load_file, save_file
from tiny import make_tiny_bert, make_tiny_chat_model

from studio.data import Encoded
from studio.data.encode_cache import short_text
from studio.runs import EventLog, Run
from studio.training.trainer import build_trainer

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "rows.jsonl")


@pytest.fixture
def broken(tmp_path, rows):
    """A recipe over thirteen rows of which the last one has a token whose embedding is not a number."""
    model = make_tiny_chat_model(tmp_path / "broken", tie_word_embeddings=False)
    from transformers import AutoTokenizer

    token = AutoTokenizer.from_pretrained(model)("§", add_special_tokens=False)["input_ids"][-1]
    weights = load_file(model / "model.safetensors")
    weights["model.embed_tokens.weight"][token] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with rows.open("a") as file:
        file.write(json.dumps({"prompt": "What is § 7?", "completion": "<b>blue</b>"}) + "\n")
    recipe = lesson(model, rows, max_steps=20, save_steps=1, group_by_length=False)
    recipe.data.holdout = 0
    return recipe


def failure(recipe) -> tuple[Run, dict]:
    run = done(recipe, "failed")
    return run, run.events()[-1]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_very_row(broken, accumulation):
    broken.train.gradient_accumulation_steps = accumulation
    run, event = failure(broken)
    assert event["reason"] == "diverged"
    text = "<|im_start|>user What is § 7?<|im_end|> <|im_start|>assistant <b>blue</b><|im_end|>"
    assert event["rows"] == [{"row": 13, "text": text, "loss": None}]
    assert event["blamed"]
    assert "row 13" in event["fix"]
    assert event["step"] == len(curve(run)) + 1  # no step was taken with it


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(broken):
    run, event = failure(broken)
    step = event["step"] - 1
    assert event["checkpoint"] == (f"checkpoints/checkpoint-{step}" if step else None)
    if step:
        weights = load_file(run.checkpoints_dir / f"checkpoint-{step}" / "adapter_model.safetensors")
        assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_loss_that_leaves_stops_the_run_with_the_batchs_rows_worst_first(tiny_model, rows):
    recipe = lesson(tiny_model, rows, method={"kind": "full"}, max_steps=40, learning_rate=1.0, save_steps=1)
    run, event = failure(recipe)
    assert event["reason"] == "diverged"
    assert "diverged" in event["what"]
    assert "train.learning_rate from 1 to 5e-05" in event["fix"]
    losses = [row["loss"] for row in event["rows"]]
    assert losses == sorted(losses, reverse=True)
    assert {row["row"] for row in event["rows"]} <= set(range(1, 13))
    steps = dict(curve(run))
    kept = int(event["checkpoint"].rsplit("-", 1)[1])
    assert steps[kept + 2] > 2 * steps[1]  # behind it the loss was too high
    assert not (run.checkpoints_dir / f"checkpoint-{event['step']}").exists()


def test_a_gradient_that_is_not_a_number_stops_a_run_whose_loss_still_is(tiny_model, rows, monkeypatch):
    from studio.training.trainer import StudioTrainer

    real = StudioTrainer._clip_grad_norm
    seen = []

    def clip(self, model):
        seen.append(real(self, model))
        return torch.tensor(torch.inf) if len(seen) == 3 else seen[-1]

    monkeypatch.setattr(StudioTrainer, "_clip_grad_norm", clip)
    _, event = failure(lesson(tiny_model, rows))
    assert event["what"] == "The gradient is not a finite number at step 3."
    assert len(event["rows"]) == 2


def test_the_scaler_of_float16_may_look_for_its_scale(tiny_model, rows, monkeypatch):
    from studio.training.trainer import StudioTrainer

    real = StudioTrainer._clip_grad_norm
    monkeypatch.setattr(
        StudioTrainer, "_clip_grad_norm", lambda self, model: (real(self, model), torch.tensor(torch.inf))[1]
    )
    built = StudioTrainer.__init__

    def scaled(self, *arguments, **options):
        built(self, *arguments, **options)
        self.accelerator.scaler = torch.amp.GradScaler("cpu", enabled=False)

    monkeypatch.setattr(StudioTrainer, "__init__", scaled)
    done(lesson(tiny_model, rows), "finished")
    _, event = failure(lesson(tiny_model, rows, max_steps=30))
    assert event["step"] == 20


def test_a_rising_loss_is_warned_of_with_its_step(tiny_model, rows):
    recipe = lesson(tiny_model, rows, method={"kind": "full"}, max_steps=40, learning_rate=1.0)
    run, _ = failure(recipe)
    (warning,) = [e for e in run.events() if e["kind"] == "warning" and "rule" in e]
    assert warning["rule"] == "high_learning_rate"
    assert 1 < warning["step"] < 10
    assert warning["fix"]


def test_a_run_as_it_should_be_raises_no_warning(finished):
    assert not [e for e in finished.events() if e["kind"] == "warning"]


def test_a_resumed_run_does_not_repeat_a_warning(tiny_model, rows, monkeypatch):
    from lessons import stop_after

    from studio.training import train

    recipe = lesson(tiny_model, rows, max_steps=36, learning_rate=1e-12, save_steps=50, eval_steps=0)
    with monkeypatch.context() as patch:
        stop_after(patch, 33)
        run = done(recipe, "stopped")
    told = [e["rule"] for e in run.events() if e["kind"] == "warning" and "rule" in e]
    assert told == ["flat_loss"]
    run.reopen()
    assert train(run.folder) == "finished"
    assert [e["rule"] for e in run.events() if e["kind"] == "warning" and "rule" in e] == told


def test_a_batch_without_a_labelled_token_is_warned_of_and_does_no_harm(tiny_model, tiny_tokenizer, rows):
    from transformers import AutoModelForCausalLM

    recipe = lesson(tiny_model, rows, max_steps=2, per_device_train_batch_size=1)
    run = Run.create(recipe)
    examples = [Encoded([5, 6, 7], [-100] * 3, row=1), Encoded([5, 6, 7], [-100, 6, 7], row=2)]
    trainer = build_trainer(
        run=run,
        recipe=recipe,
        log=EventLog(run.events_path),
        model=AutoModelForCausalLM.from_pretrained(tiny_model),
        tokenizer=tiny_tokenizer,
        examples=examples,
        held_out=None,
        device="cpu",
    )
    trainer.train()
    (warning,) = [e for e in run.events() if e["kind"] == "warning"]
    assert (warning["rule"], warning["step"] in (1, 2)) == ("empty_batch", True)
    assert sorted(loss == 0 for _, loss in curve(run)) == [False, True]


def test_a_classifier_names_its_rows_too(tmp_path):
    model = make_tiny_bert(tmp_path / "bert")
    weights = load_file(model / "model.safetensors")
    from transformers import AutoTokenizer

    token = AutoTokenizer.from_pretrained(model)("fox", add_special_tokens=False)["input_ids"][0]
    weights["embeddings.word_embeddings.weight"][token] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    texts = [f"the cat sleeps {n}" for n in range(8)] + ["the quick fox"]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": t, "label": "ab"[i % 2]}) + "\n" for i, t in enumerate(texts)))
    recipe = lesson(model, path, max_steps=10)
    recipe.model.task, recipe.data.holdout, recipe.data.max_length = "seq_cls", 0, 32
    _, event = failure(recipe)
    assert [row["row"] for row in event["rows"]] == [9]


def test_a_rows_text_is_what_is_around_the_beginning_of_its_loss():
    text = "a" * 300 + "Q" + "b" * 300
    example = Encoded([1, 2, 3], [-100, 2, 3], text, [(0, 300), (300, 301), (301, 601)])
    short = short_text(example)
    assert short.startswith("… a")
    assert "aQb" in short
    assert short.endswith("b …")
    assert len(short) == 204
