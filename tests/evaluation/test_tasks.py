"""Public benchmarks through lm-eval: a task of our own over a file, base beside tuned."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from torch.nn import functional

from studio.errors import StudioError
from studio.evaluation import tasks
from studio.evaluation.tasks import run_tasks
from studio.inference import Engine, Target
from studio.recipe import Recipe
from studio.runs import Run

TASK = """
task: studio_colours
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: ["red", "blue"]
metric_list:
  - metric: acc
metadata:
  version: 1
"""
ROWS = [
    {"question": f"What colour is {what}?", "answer": n % 2} for n, what in enumerate(("blood", "the sky", "a rose"))
]


@pytest.fixture
def folder(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "colours.yaml").write_text(TASK.format(file=rows))
    return tmp_path / "tasks"


@pytest.fixture
def run(home, tiny_model, tmp_path):
    from lessons import done, lesson, write_rows

    return done(lesson(tiny_model, write_rows(tmp_path / "train.jsonl"), max_steps=3))


def accuracy(engine: Engine, target: Target) -> float:
    """By hand: the choice with the higher likelihood behind the rendered question."""
    handle = engine.open(target)
    right = 0
    for row in ROWS:
        message = [{"role": "user", "content": row["question"]}]
        text = handle.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        before = handle.tokenizer(text, add_special_tokens=False)["input_ids"]
        odds = []
        for choice in ("red", "blue"):
            ids = handle.tokenizer(text + choice, add_special_tokens=False)["input_ids"]
            with handle.weights.use_adapter(handle.adapter):
                logits = handle.weights.model(input_ids=torch.tensor([ids])).logits[0].float()
            each = functional.log_softmax(logits[:-1], -1)[range(len(ids) - 1), ids[1:]]
            odds.append(each[len(before) - 1 :].sum().item())
        right += odds.index(max(odds)) == row["answer"]
    return right / len(ROWS)


@pytest.mark.slow  # lm-eval reads all its thousands of task files
def test_both_models_are_scored_as_by_hand(run, folder):
    engine = Engine(device="cpu")
    found = run_tasks(run, ["studio_colours"], engine, folder=folder)
    entry = found["studio_colours"]["acc"]
    with pytest.raises(StudioError, match="no task nonsense_task"):
        run_tasks(run, ["nonsense_task"], engine)
    assert entry["base"] == pytest.approx(accuracy(engine, Target.base_of(run)))
    assert entry["tuned"] == pytest.approx(accuracy(engine, Target.run(run.id)))
    assert set(entry["stderr"]) == {"base", "tuned"}
    assert run_tasks(run, ["studio_colours"], engine, folder=folder, limit=1)["studio_colours"]["acc"]["base"] in (0, 1)


def test_what_cannot_be_scored_is_refused_with_the_way_out(home, tmp_path, monkeypatch):
    run = Run.create(Recipe(name="asked"))
    with pytest.raises(StudioError, match="No task is named"):
        run_tasks(run, [], Engine())
    classifier = Run.create(Recipe.parse({"name": "classes", "model": {"task": "seq_cls"}}))
    with pytest.raises(StudioError, match="classifier"):
        run_tasks(classifier, ["arc_easy"], Engine())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StudioError, match="lm-eval") as caught:
        tasks.run_tasks(run, ["arc_easy"], Engine())
    assert "pip install lm-eval" in caught.value.fix
