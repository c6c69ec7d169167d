"""Rows with classes: in the Data tab the text, its tokens and the class as a tag; and what the terminal prints."""

import json

import pytest
from class_lessons import class_lesson, rows_of, several_of, write
from lessons import done
from tiny import make_tiny_bert
from typer.testing import CliRunner

from studio.cli import main
from studio.runs import list_runs
from studio.training.check import check, prepared_tokenizer
from studio.training.row_preview import Wanted, answer, view
from studio.ui.data import row_html


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make_tiny_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture
def recipe(home, tmp_path, bert):
    return class_lesson(bert, write(tmp_path / "rows.jsonl", rows_of()), max_steps=4)


def invoke(*arguments: str):
    result = CliRunner().invoke(main.app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_page_shows_a_row_with_its_class_before_and_after_all_rows_were_read(recipe):
    tokenizer, notes = prepared_tokenizer(recipe)
    assert not notes and "<|im_start|>" not in tokenizer.get_vocab()
    for _ in range(2):
        shown = view(Wanted(recipe, count=3), tokenizer, notes)
        page = row_html.html(shown.rows)
        assert page.count('<span class="tag">animal</span>') == 2
        assert "[CLS]" in page and "trained</span>" not in page
        check(recipe)


def test_a_text_of_no_class_says_so(home, tmp_path, bert):
    recipe = class_lesson(bert, write(tmp_path / "several.jsonl", several_of()))
    shown = view(Wanted(recipe, count=4), *prepared_tokenizer(recipe))
    page = row_html.html(shown.rows)
    assert '<span class="tag">no class</span>' in page
    assert '<span class="tag">animal</span><span class="tag">place</span>' in page


def test_rows_of_several_classes_are_counted(home, tmp_path, bert):
    recipe = class_lesson(bert, write(tmp_path / "several.jsonl", several_of()))
    assert answer(("survey", recipe), {}).rows == 96


def test_the_report_counts_classes_and_finds_texts_with_two_of_them(home, tmp_path, bert):
    rows = [*rows_of(), {"text": rows_of()[0]["text"], "label": "sum"}]
    report = check(class_lesson(bert, write(tmp_path / "rows.jsonl", rows)))
    assert report.classes == [("animal", 48), ("place", 24), ("sum", 25)]
    assert report.found("contradiction") == 1


@pytest.fixture
def written(recipe, tmp_path):
    path = tmp_path / "recipe.yaml"
    recipe.save(path)
    return str(path)


def test_the_preview_prints_text_and_class(written):
    assert "class animal" in invoke("preview", written, "--rows", "1")
    (row,) = json.loads(invoke("preview", written, "--rows", "1", "--json"))
    assert row["label"] == "animal" and row["text"].startswith("[CLS]") and set(row["labels"]) == {-100}


def test_the_check_prints_the_classes_and_clean_keeps_them(written, tmp_path):
    assert "3 classes: animal 48, place 24, sum 24." in invoke("check", written)
    invoke("clean", written, str(tmp_path / "clean.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "clean.jsonl").read_text().splitlines()]
    assert {tuple(line) for line in lines} == {("text", "label")}


def test_evaluate_says_what_the_base_is(recipe):
    done(recipe)
    run = list_runs()[0]
    assert "Base: always animal" in invoke("evaluate", run.id)
    scores = json.loads(invoke("evaluate", run.id, "--json"))
    assert {"what", "accuracy", "macro_f1", "per_class", "confusion"} <= set(scores["tuned"]) & set(scores["base"])
    assert set(scores["tuned"]["per_class"]) == {"animal", "place", "sum"}
