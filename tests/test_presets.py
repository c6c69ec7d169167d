"""Settings for a purpose: each is a sound recipe, changes what it says, and leaves the rest alone."""

import pytest

from studio.presets import presets
from studio.recipe import Recipe


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
