"""The check of a whole dataset: made once, kept for as long as nothing changes, and truthful about how far it is."""

import os
import subprocess
import sys
import time

import pytest
from lessons import lesson, write_rows

from studio.data import encode_rows, load_conversations
from studio.errors import StudioError
from studio.training import check as module
from studio.training.check import cancel, check, check_state, main, report_path

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def recipe(tiny_model, tmp_path):
    return lesson(tiny_model, write_rows(tmp_path / "rows.jsonl", 12))


def test_the_report_counts_what_the_trainer_is_given(recipe, tiny_tokenizer):
    report = check(recipe)
    examples, _ = encode_rows(tiny_tokenizer, load_conversations(recipe.data), recipe.data)
    assert report.kept == len(examples) == 12
    assert report.tokens == sum(len(e.input_ids) for e in examples)
    assert report.trained_tokens == sum(label != -100 for e in examples for label in e.labels)


def test_the_second_check_reads_no_row(recipe, monkeypatch):
    first = check(recipe)
    monkeypatch.setattr(module, "read_conversations", None)
    assert check(recipe) == first
    assert check_state(recipe) == (first, None)


def test_a_changed_file_or_setting_is_checked_anew(recipe, tmp_path):
    check(recipe)
    longer = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_length": 9})})
    assert check_state(longer) == (None, None)
    write_rows(tmp_path / "rows.jsonl", 13)
    assert check_state(recipe) == (None, None)
    assert check(recipe).rows == 13


def test_a_check_that_fails_says_why(recipe, tmp_path):
    recipe.save(tmp_path / "recipe.yaml")
    (tmp_path / "rows.jsonl").write_text("{broken\n")
    assert main([str(tmp_path / "recipe.yaml")]) == 1
    _, state = check_state(recipe)
    assert state["state"] == "failed"
    assert "line 1" in state["error"][0]


def test_a_model_that_is_not_here_is_said(recipe):
    recipe.model.id = "builtin/smollm2-135m-instruct"
    with pytest.raises(StudioError, match="not on this machine"):
        check(recipe)


def test_a_check_in_a_process_of_its_own_ends_with_the_report(recipe, tmp_path):
    recipe.save(tmp_path / "recipe.yaml")
    command = [sys.executable, "-m", "studio.training.check", str(tmp_path / "recipe.yaml")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    report, state = check_state(recipe)
    assert report.rows == 12
    assert state is None


def test_a_check_that_is_cancelled_or_killed_is_interrupted(recipe):
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    path = report_path(recipe).with_suffix(".progress")
    path.write_text(f'{{"state": "working", "rows": 5, "error": null, "pid": {sleeper.pid}, "time": {time.time()}}}')
    assert check_state(recipe)[1]["state"] == "working"
    cancel(recipe)
    sleeper.wait(timeout=10)
    assert check_state(recipe)[1] == {
        "state": "failed",
        "rows": 5,
        "error": ["The check was interrupted.", "Start it again."],
        "pid": sleeper.pid,
        "time": pytest.approx(time.time(), abs=60),
    }
