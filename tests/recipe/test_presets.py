"""Settings for a purpose: each is a sound recipe, changes what it says, and leaves the rest alone."""

import pytest

from studio.recipe import Recipe
from studio.recipe.presets import presets, read_changes, write_changes
from studio.recipe.warnings import warnings


@pytest.mark.parametrize("name", presets())
def test_a_preset_over_the_default_recipe_is_sound_and_changes_something(name):
    recipe, changes = presets()[name].applied(Recipe())
    assert recipe.problems() == []
    assert changes
    for path, old, new in changes:
        section, field = path.split(".")
        assert old != new == recipe.model_dump(mode="json")[section][field]


@pytest.mark.parametrize("name", presets())
def test_a_preset_says_what_it_is_for(name):
    preset = presets()[name]
    assert preset.title.lower().replace(" ", "-") == name
    assert preset.about.endswith(".")


def test_what_a_preset_does_not_name_stays():
    recipe = Recipe.parse({"data": {"source": "mine.jsonl"}, "train": {"learning_rate": 0.0003, "seed": 5}})
    made, _ = presets()["long-context"].applied(recipe)
    assert (made.data.source, made.train.learning_rate, made.train.seed) == ("mine.jsonl", 0.0003, 5)
    assert made.method == recipe.method


def test_a_preset_with_another_method_starts_from_that_methods_defaults():
    made, changes = presets()["least-memory"].applied(Recipe.parse({"method": {"kind": "oft"}}))
    assert made.method.kind == "lora"
    assert made.problems() == []
    assert ("method.kind", "oft", "lora") in changes


def test_a_preset_applied_twice_changes_nothing_the_second_time():
    once, _ = presets()["best-quality"].applied(Recipe())
    again, changes = presets()["best-quality"].applied(once)
    assert again == once
    assert changes == []


def test_page_09_presets_replace_each_other():
    recipe, former = Recipe(), []
    for name in ("small-data", "best-quality", "least-memory"):
        recipe, former = presets()[name].applied(recipe, former)
    alone, _ = presets()["least-memory"].applied(Recipe())
    assert recipe == alone


def test_page_09_what_a_person_changed_stays_when_presets_replace_each_other():
    mine = Recipe.parse({"train": {"learning_rate": 0.0003, "seed": 5}})
    first, former = presets()["small-data"].applied(mine)
    first.train.num_train_epochs = 7
    second, _ = presets()["long-context"].applied(first, former)
    assert (second.train.seed, second.train.learning_rate, second.train.num_train_epochs) == (5, 0.0003, 7)
    assert second.train.keep_best is False
    assert second.data.holdout == mine.data.holdout


def test_page_09_a_preset_that_changed_the_method_gives_the_former_one_back():
    first, former = presets()["best-quality"].applied(Recipe.parse({"method": {"kind": "oft"}}))
    second, _ = presets()["long-context"].applied(first, former)
    assert second.method.kind == "oft"


def test_page_09_changes_come_back_from_the_page_as_they_were():
    _, changes = presets()["least-memory"].applied(Recipe())
    assert read_changes(write_changes(changes)) == changes
    for text in ("", None, "x", "[1]", "{}", "[[1, 2]]"):
        assert read_changes(text) == []


def test_page_09_the_preset_for_best_quality_is_warned_about_in_a_run_of_five_steps():
    made, _ = presets()["best-quality"].applied(Recipe())
    assert [warning.code for warning in warnings(made, 5)] == ["warmup_whole_run"]
