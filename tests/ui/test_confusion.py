"""The Runs tab of a classifier: its scores and its confusion, with nothing of the data's own markup."""

import json

import pytest

from studio.recipe import Recipe
from studio.runs import EventLog, Run
from studio.ui.runs.texts import confusion


def shown(run: Run) -> str:
    return confusion(run, run.view())


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """A classification run that ended with these counts."""
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path))

    def make(labels: list[str], counts: list, multi_label: bool = False) -> Run:
        run = Run.create(Recipe.parse({"model": {"task": "seq_cls"}}))
        found = {"labels": labels, "counts": counts, "multi_label": multi_label}
        (run.folder / "confusion.json").write_text(json.dumps(found))
        log = EventLog(run.events_path)
        log.write("started", max_steps=1)
        log.write("finished", step=1, accuracy=0.75, macro_f1=0.7)
        log.close()
        return run

    return make


def test_it_shows_the_scores_and_how_often_each_class_was_taken_for_another(ended):
    page = shown(ended(["cat", "dog"], [[5, 1], [2, 4]]))
    assert "75.0%" in page
    assert "0.700" in page
    assert page.count('class="right"') == 2
    for count in (5, 1, 2, 4):
        assert f">{count}</td>" in page


def test_several_labels_have_a_line_for_each_class(ended):
    page = shown(ended(["cat", "dog"], [[[7, 1], [2, 3]], [[6, 0], [0, 7]]], multi_label=True))
    assert "missed" in page
    assert page.index(">3</td>") < page.index(">2</td>") < page.index(">1</td>")


def test_a_class_with_markup_stays_text(ended):
    page = shown(ended(["<img src=x>", "b"], [[1, 0], [0, 1]]))
    assert "<img" not in page


def test_a_run_that_is_no_classifier_has_none(tmp_path, monkeypatch):
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path))
    assert shown(Run.create(Recipe())) == ""
