"""A suite's answers as files that others can read."""

import csv
import io
import json
from unittest.mock import ANY

import pytest

from studio.errors import StudioError
from studio.evaluation.suite_export import FORMATS, export
from studio.evaluation.suite_run import Answer, SuiteRun
from studio.evaluation.suites import Prompt, Suite

HOSTILE = '<script>alert(1)</script> | ![x](http://a.example/b.png) ${x} {{y}}\n"quoted", \x1b[31mred'


@pytest.fixture
def run() -> SuiteRun:
    asked = tuple(
        Prompt(str(n), ({"role": "user", "content": f"Say {n}, please"},), str(n), ("a", "b"), {"number": n})
        for n in range(3)
    )
    answers = {
        "base": {"0": Answer("0", "0", 3), "1": Answer("1", HOSTILE, 9), "2": Answer("2", "=1+1", 4)},
        "tuned": {"0": Answer("0", "1", 3), "1": Answer("1", "1", 9), "2": Answer("2", "", 0, "Too long.")},
    }
    return SuiteRun(Suite("mine", asked), answers)


def test_csv_comes_back_cell_for_cell_and_no_cell_is_a_formula(run):
    found = list(csv.DictReader(io.StringIO(export(run, "csv"), newline="")))
    assert [row["base"] for row in found] == ["0", HOSTILE, "'=1+1"]
    assert [row["tuned: passed"] for row in found] == ["0", "1", ""]
    assert found[0]["tags"] == "a;b"


def test_json_lines_have_everything(run):
    first, second, third = map(json.loads, export(run, "jsonl").splitlines())
    assert first["answers"]["base"] == {"output": "0", "error": "", "new_tokens": 3, "passed": 1.0, "scores": ANY}
    assert second["answers"]["base"]["output"] == HOSTILE
    assert third["answers"]["tuned"]["error"] == "Too long."


def test_markdown_shows_hostile_answers_as_text(run):
    page = export(run, "md")
    assert "<script" not in page.replace("\\<script", "")
    assert "![x](" not in page
    assert all(line.startswith("|") and line.count(" | ") >= 2 for line in page.splitlines()[2:])


def test_llm_comparator_gets_two_models_and_a_score(run):
    whole = json.loads(export(run, "llm-comparator"))
    assert [model["name"] for model in whole["models"]] == ["base", "tuned"]
    assert [example["score"] for example in whole["examples"]] == [1.0, -1.0]
    assert set(whole["examples"][0]) == {
        "input_text", "tags", "output_text_a", "output_text_b", "score", "individual_rater_scores", "custom_fields"
    }  # fmt: skip
    with pytest.raises(StudioError, match="two models"):
        export(SuiteRun(run.suite, {"base": run.answers["base"]}), "llm-comparator")


def test_there_are_no_other_formats(run):
    with pytest.raises(StudioError, match="csv, jsonl"):
        export(run, "xlsx")
    assert all(export(run, kind) for kind in FORMATS)
