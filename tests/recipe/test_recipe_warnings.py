"""Warnings about sound recipes: learning rates outside of a method's usual range, warm-ups as long as the run."""

import pytest

from studio.recipe import METHODS, Recipe
from studio.recipe.warnings import safer_rate, warnings


def codes(steps=None, kind="lora", **train) -> list[str]:
    recipe = Recipe.parse({"method": {"kind": kind}, "train": {"warmup_steps": 0, **train}}).check()
    return [warning.code for warning in warnings(recipe, steps)]


@pytest.mark.parametrize("kind", METHODS)
def test_page_04_the_usual_range_holds_the_suggestion_of_every_method(kind):
    low, high = METHODS[kind].usual_rates()
    assert low < METHODS[kind].suggested < high <= 1
    assert codes(kind=kind, learning_rate=METHODS[kind].suggested) == []
    assert codes(kind=kind, learning_rate=low / 2) == ["learning_rate_low"]


def test_page_04_a_learning_rate_of_1_is_warned_about_with_lora_and_not_with_prompt_tuning():
    assert codes(learning_rate=1) == ["learning_rate_high"]
    assert codes(kind="prompt_tuning", learning_rate=1) == []


def test_page_04_the_range_follows_optimizers_whose_steps_have_another_size():
    assert codes(learning_rate=1e-2, optim="lion_32bit") == ["learning_rate_high"]
    assert codes(learning_rate=1e-5, optim="lion_32bit") == []
    assert codes(learning_rate=0.5, optim="sgd") == []


@pytest.mark.parametrize("kind", METHODS)
def test_page_06_the_learning_rate_of_a_retry_is_one_that_the_method_is_used_with(kind):
    assert safer_rate(kind, 1.0) == min(0.1, METHODS[kind].suggested)
    assert safer_rate(kind, METHODS[kind].suggested) <= METHODS[kind].suggested / 9


def test_page_09_a_warm_up_as_long_as_the_run_is_warned_about():
    assert codes(steps=5, warmup_steps=20) == ["warmup_whole_run"]
    assert codes(max_steps=20, warmup_steps=20) == ["warmup_whole_run"]
    assert codes(steps=21, warmup_steps=20) == []
    assert codes(warmup_steps=20) == [], "how long the run is cannot be told"
    assert codes(steps=5, warmup_steps=20, lr_scheduler_type="constant") == [], "it has no warm-up"
