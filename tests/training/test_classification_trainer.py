"""Runs that put texts into classes: encoders and decoders, each with full tuning, LoRA and bottleneck adapters."""

import json

import pytest
import torch
from class_lessons import class_lesson, rows_of, several_of, write
from lessons import curve, done, kinds, same, stop_after, weights
from tiny import make_tiny_bert, make_tiny_chat_model, make_tiny_gpt2
from transformers import AutoModelForSequenceClassification

from studio.data import classes_of, encode_row, read_conversations
from studio.data.classes import FILE
from studio.errors import StudioError
from studio.evaluation import evaluate
from studio.inference import Engine
from studio.inference.classify import open_classifier
from studio.models.classification import logits_of, prepare
from studio.models.load import load_model, load_tokenizer
from studio.recipe import ModelSpec
from studio.runs import Run
from studio.training import train
from studio.training.saving import merge

METHODS = {
    "full": ({"kind": "full"}, 0.005),
    "lora": ({"kind": "lora", "r": 8}, 0.01),
    # ten seeds gave an accuracy of 0.77 to 1.0; half and twice the rate fail with some
    "bottleneck": ({"kind": "bottleneck", "reduction_factor": 2}, 0.006),
}
AT_ITS_END = {"eval_steps": 0, "save_steps": 0}  # what a run measures and saves


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    top = tmp_path_factory.mktemp("models")
    return {
        "bert": make_tiny_bert(top / "bert"),
        "headless": make_tiny_bert(top / "headless", kind="BertForMaskedLM"),
        "llama": make_tiny_chat_model(top / "llama"),
        "gpt2": make_tiny_gpt2(top / "gpt2"),
    }


@pytest.fixture
def rows(home, tmp_path):
    return write(tmp_path / "rows.jsonl", rows_of())


def test_the_trainer_gets_what_the_preview_shows(models, rows, monkeypatch):
    from studio.training import classification_trainer

    seen = []

    def watched(examples, pad, classes):
        seen.extend((tuple(e["input_ids"]), e["label"]) for e in examples)
        return real(examples, pad, classes)

    real = classification_trainer.collated
    monkeypatch.setattr(classification_trainer, "collated", watched)
    recipe = class_lesson(models["bert"], rows, num_train_epochs=1, max_steps=-1, eval_steps=0)
    run = done(recipe)

    tokenizer = load_tokenizer(models["bert"])
    prepare(tokenizer, None, recipe)
    classes = classes_of(recipe.data, recipe.train.seed)
    assert classes.names == ("animal", "place", "sum")
    shown = [
        encode_row(tokenizer, conversation.content(), recipe.data, classes)
        for conversation in read_conversations(recipe.data, task="seq_cls").conversations
    ]
    expected = {(tuple(e.input_ids), e.label) for e in shown}
    assert set(seen) <= expected
    held_out = (run.folder / "predictions.jsonl").read_text().splitlines()
    assert len(seen) + len(held_out) == len(shown)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["bert", "headless", "llama", "gpt2"])
def test_every_kind_of_model_learns_a_rule_and_is_the_same_when_loaded_again(models, rows, name, method):
    kind, rate = METHODS[method]
    run = done(class_lesson(models[name], rows, method=kind, learning_rate=rate, max_steps=100, **AT_ITS_END))
    finished = run.events()[-1]
    scores = evaluate(run, Engine(device="cpu"))
    assert scores["tuned"]["accuracy"] == finished["accuracy"] > scores["base"]["accuracy"] + 0.2
    assert scores["tuned"]["macro_f1"] == finished["macro_f1"]
    assert scores["tuned"]["loss"] == pytest.approx(finished["eval_loss"], abs=1e-6)
    assert "always animal" in scores["base"]["what"]
    assert (run.model_dir / "adapter_config.json").exists() == (method != "full")


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_several_classes_are_learnt(models, home, tmp_path, name):
    path = write(tmp_path / "several.jsonl", several_of(192))
    # six seeds gave 0.86 to 1.0 so; a larger step or fewer rows end below 0.8 on some processors
    run = done(
        class_lesson(models[name], path, method={"kind": "full"}, learning_rate=0.002, max_steps=200, **AT_ITS_END)
    )
    scores = evaluate(run, Engine(device="cpu"))
    assert scores["multi_label"]
    assert scores["tuned"]["macro_f1"] > 0.75 > scores["base"]["macro_f1"]
    line = json.loads((run.folder / "predictions.jsonl").read_text().splitlines()[0])
    assert isinstance(line["predicted"], list) and set(line["probability"]) == {"animal", "place", "sum"}
    loaded = load_model(ModelSpec(id=str(run.model_dir), task="seq_cls"), classes=open_classifier(run).classes)
    assert loaded.config.problem_type == "multi_label_classification"


@pytest.mark.parametrize("method", ["freeze", "ia3", "prompt_tuning", "p_tuning", "prefix_tuning", "ln_tuning"])
def test_other_methods_train_and_save_the_head_too(models, rows, method):
    run = done(class_lesson(models["headless"], rows, method={"kind": method}, max_steps=4))
    scores = evaluate(run, Engine(device="cpu"))
    assert scores["tuned"]["loss"] == pytest.approx(run.events()[-1]["eval_loss"], abs=1e-5)
    saved = weights(run.model_dir)
    assert any("classifier" in tensor for tensor in saved) and any("pooler" in tensor for tensor in saved)


@pytest.mark.parametrize("name", ["headless", "llama"])
def test_a_merged_classifier_needs_no_peft_and_says_the_same(models, rows, tmp_path, name):
    run = done(class_lesson(models[name], rows, max_steps=6))
    opened = open_classifier(run)
    ids = [opened.tokenizer(row["text"])["input_ids"] for row in rows_of(5)]
    expected = logits_of(opened.model, ids, opened.tokenizer.pad_token_id)
    folder = merge(run, tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert merged.config.id2label == {0: "animal", 1: "place", 2: "sum"}
    assert (folder / FILE).exists()
    assert torch.allclose(logits_of(merged, ids, opened.tokenizer.pad_token_id), expected, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_goes_on_to_the_same_weights(models, rows, monkeypatch, method):
    kind, rate = METHODS[method]
    settings = {"method": kind, "learning_rate": rate, "max_steps": 7, "eval_steps": 3, "save_steps": 2}
    whole = done(class_lesson(models["headless"], rows, **settings))
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        run = done(class_lesson(models["headless"], rows, **settings), "stopped")
    run.reopen()
    assert train(run.folder) == "finished"
    assert run.view().curves["loss"] == whole.view().curves["loss"]
    assert same(weights(run.model_dir), weights(whole.model_dir))


def test_coarse_weights_keep_a_head_in_float32(models, rows):
    recipe = class_lesson(models["llama"], rows, max_steps=4)
    recipe.model.dtype = "bfloat16"
    run = done(recipe)
    head = {name: tensor for name, tensor in weights(run.model_dir).items() if "score" in name}
    assert {tensor.dtype for tensor in head.values()} == {torch.float32}
    scores = evaluate(run, Engine(device="cpu"))
    assert scores["tuned"]["loss"] == pytest.approx(run.events()[-1]["eval_loss"], abs=1e-6)


def test_padding_changes_nothing(models):
    for name in ("bert", "llama", "gpt2"):
        recipe = class_lesson(models[name], models[name])
        tokenizer = load_tokenizer(models[name])
        classes = type("Two", (), {"names": ("x", "y"), "multi_label": False})
        model = load_model(recipe.model, classes=classes)
        prepare(tokenizer, model, recipe)
        ids = [[*tokenizer(text)["input_ids"]] for text in ("The dog", "The quick brown fox jumps over the lazy dog")]
        together = logits_of(model, ids, tokenizer.pad_token_id)
        alone = torch.cat([logits_of(model, [row], tokenizer.pad_token_id) for row in ids])
        assert torch.allclose(together, alone, atol=1e-5)


def test_each_measurement_has_accuracy_and_macro_f1_and_the_rows_are_written_down(models, rows):
    run = done(class_lesson(models["bert"], rows, max_steps=6, eval_steps=3))
    measured = [event for event in run.events() if event["kind"] == "eval"]
    assert [event["step"] for event in measured] == [3, 6]
    assert all({"loss", "accuracy", "macro_f1"} <= set(event) for event in measured)
    lines = [json.loads(line) for line in (run.folder / "predictions.jsonl").read_text().splitlines()]
    right = sum(line["label"] == line["predicted"] for line in lines) / len(lines)
    assert right == run.events()[-1]["accuracy"]
    assert all(0 < line["probability"] <= 1 and line["text"] for line in lines)
    confusion = json.loads((run.folder / "confusion.json").read_text())
    assert confusion["labels"] == ["animal", "place", "sum"]
    assert sum(map(sum, confusion["counts"])) == len(lines)


def test_the_best_weights_are_kept_with_their_accuracy(models, rows, tmp_path):
    """Held-out rows that contradict the others: the better those are learned, the worse is each measurement."""
    turned = {"animal": "place", "place": "sum", "sum": "animal"}
    wrong = write(
        tmp_path / "wrong.jsonl",
        [{"text": " ".join(row["text"].split()[:3]), "label": turned[row["label"]]} for row in rows_of()],
    )
    settings = {"learning_rate": 0.02, "warmup_steps": 0, "eval_steps": 4, "keep_best": True, "max_steps": 16}
    run = done(class_lesson(models["bert"], rows, data={"holdout": 0, "holdout_source": str(wrong)}, **settings))
    finished, measured = run.events()[-1], {e["step"]: e for e in run.events() if e["kind"] == "eval"}
    best = min(measured, key=lambda step: measured[step]["loss"])
    assert best < 16 and finished["best_step"] == best
    assert finished["eval_loss"] == measured[best]["loss"] and finished["accuracy"] == measured[best]["accuracy"]
    assert evaluate(run, Engine(device="cpu"))["tuned"]["loss"] == pytest.approx(measured[best]["loss"], abs=1e-5)


def test_accumulated_batches_are_one_large_batch(models, rows):
    one = done(class_lesson(models["llama"], rows, max_steps=3, per_device_train_batch_size=8, group_by_length=False))
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "group_by_length": False}
    parts = done(class_lesson(models["llama"], rows, max_steps=3, **settings))
    assert [loss for _, loss in curve(parts)] == pytest.approx([loss for _, loss in curve(one)], rel=1e-4)


def failed(recipe) -> str:
    run = done(recipe, "failed")
    assert kinds(run)[-1] == "failed"
    return run.events()[-1]["what"]


def test_one_class_is_refused(models, home, tmp_path):
    path = write(tmp_path / "one.jsonl", [row for row in rows_of() if row["label"] == "sum"])
    assert "only one class ('sum')" in failed(class_lesson(models["bert"], path))


def test_conversations_are_refused(models, home, tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = write(tmp_path / "chat.jsonl", [{"messages": turns}] * 3)
    assert "These rows are conversations" in failed(class_lesson(models["bert"], path))


def test_rows_longer_than_the_model_reads_are_refused(models, home, tmp_path):
    path = write(tmp_path / "long.jsonl", [{**row, "text": row["text"] * 20} for row in rows_of()])
    assert "reads at most 64" in failed(class_lesson(models["bert"], path, data={"max_length": 128}))


def test_an_encoder_does_not_go_on_with_text(models, rows):
    with pytest.raises(StudioError, match="is an encoder"):
        load_model(ModelSpec(id=str(models["bert"])))


def test_a_held_out_row_of_a_new_class_is_left_out_and_said(models, rows, tmp_path):
    second = write(
        tmp_path / "second.jsonl", [{"text": "warm sun", "label": "new"}, {"text": "fox", "label": "animal"}]
    )
    run = done(class_lesson(models["bert"], rows, data={"holdout_source": str(second)}, max_steps=2))
    (warning,) = [e["what"] for e in run.events() if e["kind"] == "warning" and "no training row" in e["what"]]
    assert "'new'" in warning
    assert len((run.folder / "predictions.jsonl").read_text().splitlines()) == 1
    scores = evaluate(run, Engine(device="cpu"))
    assert (scores["rows"], scores["skipped"]) == (1, 1)


def test_an_adapter_goes_on_with_the_same_classes_only(models, rows, tmp_path):
    first = done(class_lesson(models["bert"], rows, max_steps=20))
    recipe = class_lesson(models["bert"], rows, max_steps=3, learning_rate=1e-4)
    recipe.model.adapter = first.id
    assert curve(done(recipe))[0][1] < curve(first)[0][1]

    other = write(tmp_path / "other.jsonl", [row for row in rows_of() if row["label"] != "sum"])
    recipe = class_lesson(models["bert"], other)
    recipe.model.adapter = first.id
    assert "knows other classes than this data has: sum" in failed(recipe)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_that_is_saved_without_the_head_is_refused_before_the_launch(models, rows, start):
    recipe = class_lesson(models["bert"], rows, method={"kind": "lora", "init_lora_weights": start})
    assert [problem.field for problem in recipe.problems()] == ["method.init_lora_weights"]


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantised_decoder_has_a_head_of_its_own(models, rows, quantization):
    recipe = class_lesson(models["llama"], rows, max_steps=4)
    recipe.model.quantization = quantization
    run = done(recipe)
    assert any("score" in name for name in weights(run.model_dir))
    scores = evaluate(run, Engine(device="cpu"))
    assert scores["tuned"]["loss"] == pytest.approx(run.events()[-1]["eval_loss"], abs=1e-3)


def test_a_classifier_does_not_chat(models, rows):
    run = done(class_lesson(models["llama"], rows, max_steps=2))
    for target in (run.id, "base"):
        from studio.inference import Target

        with pytest.raises(StudioError, match="puts texts into classes"):
            Engine(device="cpu").open(Target.run(run.id) if target == run.id else Target.base_of(run))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "rate"), [("full", 2e-4), ("lora", 2e-3), ("bottleneck", 3e-3)])
def test_minilm_learns_the_intents(home, method, rate):
    from studio.recipe import Recipe

    overrides = [f"method.kind={method}", f"train.learning_rate={rate}", "train.device=cpu"]
    recipe = Recipe.load("recipes/classify.yaml", overrides).check()
    run = Run.create(recipe)
    assert train(run.folder) == "finished"
    scores = evaluate(run, Engine(device="cpu"))
    assert scores["rows"] == 84
    assert scores["base"]["accuracy"] < 0.2
    assert scores["tuned"]["accuracy"] > 0.7 and scores["tuned"]["macro_f1"] > 0.7
