"""What is asked about before a run is resumed: one accepted change is not every later one; measurements that decide."""

import pytest

from studio.recipe import Recipe
from studio.runs.origin import changes_since, recipe_part, unaccepted


def origin(recipe: Recipe | None = None, **data) -> dict:
    return {"recipe": recipe_part(recipe or Recipe()), "data": data}


@pytest.mark.parametrize("name", ["fingerprint", "examples"])
def test_data_04_an_accepted_change_of_data_without_files_does_not_accept_the_next(name):
    before = origin(**{name: "a" * 64}, sources=[])
    (change,) = changes_since(before, origin(**{name: "b" * 64}, sources=[]))
    accepted = {change.field: change.token}
    assert unaccepted([change], accepted) == []
    again = changes_since(before, origin(**{name: "c" * 64}, sources=[]))
    assert unaccepted(again, accepted) == again != []


def test_data_04_a_change_of_files_that_was_accepted_before_the_rows_were_read_is_accepted_after_it():
    file = [["rows.jsonl", 10, 1, "b"]]
    (quick,) = changes_since(origin(sources=[["rows.jsonl", 9, 1, "a"]], fingerprint="a"), origin(sources=file))
    read = changes_since(origin(sources=[], fingerprint="a"), origin(sources=file, fingerprint="b"))
    assert unaccepted(read, {quick.field: quick.token}) == []


@pytest.mark.parametrize(("section", "field", "value"), [("train", "eval_steps", 7), ("data", "eval_split", "other")])
@pytest.mark.parametrize("decides", [{}, {"keep_best": True}, {"early_stopping_patience": 2}])
def test_results_05_measurements_are_asked_about_only_where_they_decide_what_is_kept(section, field, value, decides):
    values = {"train": dict(decides), "data": {}}
    before = Recipe.parse(values)
    values[section] = values[section] | {field: value}
    changes = changes_since(origin(before), origin(Recipe.parse(values)))
    assert [(change.field, change.kind) for change in changes] == ([(f"{section}.{field}", "ask")] if decides else [])
