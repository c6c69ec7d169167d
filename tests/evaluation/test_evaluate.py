"""A run is scored against its base on the rows it was not trained on."""

from __future__ import annotations

import json
import math

import pytest
from lora_runs import add_run

from studio.data import encode_row, load_conversations, load_evaluation
from studio.errors import StudioError
from studio.evaluation import evaluate
from studio.evaluation.row_loss import row_losses
from studio.inference import Sampling, Target, generate_batch, stream
from studio.recipe import DataSpec
from studio.recipe.methods import FullMethod
from studio.runs import Run


def conversation(question: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write(path, rows) -> DataSpec:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataSpec(source=str(path), holdout=0.4, max_length=128)


@pytest.fixture
def data(tmp_path) -> DataSpec:
    return write(tmp_path / "data.jsonl", [conversation(f"Question {i}?", f"Answer {i * 7}.") for i in range(12)])


@pytest.fixture
def run(workspace, models, data) -> Run:
    return add_run(workspace, "scored", models["base"], models["one"], data=data)


def test_the_result_has_the_shape_of_the_command_line(run, engine):
    result = evaluate(run, engine)
    assert {how["dtype"] for how in result["computed"].values()} == {"float32"}
    assert all(how["attention"] and how["threads"] and how["processor"] for how in result["computed"].values())
    assert 0 < result["rows"] < 12 and result["answered"] == result["rows"] and result["skipped"] == 0
    for side in ("base", "tuned"):
        scores = result[side]
        assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))
        assert 0 <= scores["exact_match"] <= 1
    json.dumps(result, allow_nan=False)


def test_the_loss_is_the_mean_over_all_labelled_tokens_of_the_held_out_rows(run, engine):
    result = evaluate(run, engine)
    handle = engine.open(run.id)
    rows = list(load_evaluation(run.recipe.data, run.recipe.train.seed))
    encoded = [encode_row(handle.tokenizer, row, run.recipe.data) for row in rows]
    losses = row_losses(handle, encoded)
    assert result["rows"] == len(rows) < len(load_conversations(run.recipe.data))
    assert result["tokens"] == sum(sum(label != -100 for label in e.labels) for e in encoded)
    assert result["tuned"]["loss"] == pytest.approx(sum(r.total for r in losses) / result["tokens"])
    assert result["tuned"]["loss"] != result["base"]["loss"]


def test_an_answer_that_the_model_gives_to_the_letter_counts_and_no_other(workspace, models, engine):
    """References taken from the tuned model's own answers, one of them changed."""
    tuned = engine.open("one")
    rows = []
    for number in range(12):
        question = [{"role": "user", "content": f"Question {number}?"}]
        pieces = stream(tuned, question, Sampling(temperature=0, max_new_tokens=24))
        rows.append(conversation(question[0]["content"], "".join(p.text for p in pieces)))
    data = write(workspace / "own.jsonl", rows)
    run = add_run(workspace, "own", models["base"], models["one"], data=data)
    details = _details(run, engine)
    ends = [d for d in details if d["tuned"]["output"].strip() == d["reference"].strip()]
    assert [d["tuned"]["correct"] for d in details] == [d in ends for d in details]
    assert not any(d["base"]["correct"] for d in details)


def test_answers_are_those_of_the_models_on_the_conversation_before_the_last_answer(run, engine):
    for entry in _details(run, engine)[:2]:
        for side, target in (("base", Target.base_of(run)), ("tuned", Target.run(run.id))):
            longest = Sampling(temperature=0, max_new_tokens=200)
            whole = "".join(p.text for p in stream(engine.open(target), entry["prompt"], longest))
            assert entry[side]["output"] and whole.startswith(entry[side]["output"].rstrip("\ufffd"))


def test_what_each_model_answered_is_in_the_run_folder(run, engine):
    result = evaluate(run, engine)
    saved = json.loads((run.folder / "evaluation.json").read_text())
    details = saved.pop("details")
    assert saved == result and len(details) == result["rows"]
    assert list(details[0]) == ["row", "prompt", "reference", "base", "tuned"]
    assert list(details[0]["base"]) == ["loss", "output", "correct"]
    assert not list(run.folder.glob("*.part"))


def test_a_row_that_does_not_end_with_an_answer_is_scored_by_its_loss_alone(workspace, models, engine):
    rows = [conversation(f"Question {i}?", f"Answer {i}.") for i in range(4)]
    for row in rows:
        row["messages"].append({"role": "user", "content": "Thanks."})
    run = add_run(workspace, "open", models["base"], models["one"], data=write(workspace / "open.jsonl", rows))
    result = evaluate(run, engine)
    assert result["rows"] > 0 and result["answered"] == 0
    assert result["base"]["exact_match"] is None and result["base"]["loss"] > 0
    assert all(entry["base"]["output"] is None for entry in _details(run, engine))


def test_rows_that_the_encoder_drops_are_skipped_and_counted(workspace, models, engine):
    rows = [conversation(f"Question {i}?", f"Answer {i}.") for i in range(12)]
    rows += [conversation(f"{i} " + "word " * 150, "too late") for i in range(12)]
    run = add_run(workspace, "long", models["base"], models["one"], data=write(workspace / "long.jsonl", rows))
    result = evaluate(run, engine)
    held_out = len(load_evaluation(run.recipe.data, 0))
    assert result["skipped"] > 0 and result["rows"] + result["skipped"] == held_out


def test_plain_text_is_scored_by_its_loss(workspace, models, engine):
    data = write(workspace / "text.jsonl", [{"text": f"The quick brown fox number {i}."} for i in range(8)])
    run = add_run(workspace, "text", models["base"], models["one"], data=data)
    result = evaluate(run, engine)
    assert result["answered"] == 0 and result["tuned"]["loss"] > 0


def test_without_held_out_rows_it_says_what_to_do(workspace, models, engine, data):
    run = add_run(workspace, "none", models["base"], models["one"], data=data.model_copy(update={"holdout": 0.0}))
    with pytest.raises(StudioError, match="no held-out rows"):
        evaluate(run, engine)


def test_progress_is_told_row_by_row_for_both_models(run, engine):
    told = []
    evaluate(run, engine, lambda what, done, total: told.append((what, done, total)))
    for what in ("Measuring the loss of the base model", "Letting the tuned model answer"):
        steps = [(done, total) for sentence, done, total in told if sentence == what]
        assert steps[0][0] == 0 and steps[-1][0] == steps[-1][1] > 0


@pytest.fixture(scope="module")
def learned(models, tmp_path_factory):
    """The base, trained until it knows all answers but one by heart; and the rows."""
    import torch

    from studio.data import encode_conversation
    from studio.models.load import load_model, load_tokenizer
    from studio.recipe import ModelSpec

    facts = {"fox": "brown", "dog": "lazy", "cat": "asleep", "sun": "warm", "order": "late", "moon": "unknown"}
    rows = [conversation(thing, f"It is {how}.") for thing, how in facts.items()]
    tokenizer = load_tokenizer(models["base"])
    model = load_model(ModelSpec(id=str(models["base"]), dtype="float32")).train()
    examples = [encode_conversation(tokenizer, row["messages"]) for row in rows[:-1]]  # the moon stays unknown
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        loss = sum(model(torch.tensor([e.input_ids]), labels=torch.tensor([e.labels])).loss for e in examples)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("learned") / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, rows


def test_answers_that_the_loss_has_shown_are_those_that_generation_gives(
    workspace, models, learned, engine, monkeypatch
):
    folder, rows = learned
    data = write(workspace / "learned.jsonl", rows).model_copy(update={"eval_split": "train"})
    run = add_run(workspace, "learned", models["base"], folder, method=FullMethod(), data=data)
    asked = []

    def spy(handle, conversations, *arguments, **options):
        asked.append(len(conversations))
        return generate_batch(handle, conversations, *arguments, **options)

    monkeypatch.setattr("studio.evaluation.scoring.generate_batch", spy)
    quick = _details(run, engine)
    assert asked == [6, 1], "all answers of the base, and of the tuned model the one it has not learned"
    monkeypatch.setattr("studio.inference.generate.steered", lambda model: True)
    assert [entry["tuned"] for entry in _details(run, engine)] == [entry["tuned"] for entry in quick]
    assert asked[2:] == [6, 6] and sum(entry["tuned"]["correct"] for entry in quick) == 5


def _details(run: Run, engine) -> list[dict]:
    evaluate(run, engine)
    return json.loads((run.folder / "evaluation.json").read_text())["details"]
