"""The recipes that come with the project."""

from pathlib import Path

import pytest

from studio.recipe import Recipe, shipped
from studio.recipe.methods import METHODS

RECIPES = Path(__file__).parent.parent / "recipes"


def comment(name: str) -> str:
    lines = (RECIPES / name).read_text(encoding="utf-8").splitlines()
    head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    return "\n".join(head)


def test_there_is_one_for_each_way_to_tune():
    assert {"quickstart.yaml", "chat-lora.yaml", "full.yaml", "qlora.yaml"} <= set(shipped())
    assert {Recipe.load(RECIPES / name).method.kind for name in shipped()} == set(METHODS)


@pytest.mark.parametrize("name", [n for n in shipped() if n.startswith("methods/")])
def test_the_recipe_of_a_method_takes_the_learning_rate_that_the_form_suggests(name):
    recipe = Recipe.load(RECIPES / name)
    assert recipe.train.learning_rate == METHODS[recipe.method.kind].suggested


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_has_no_problems(name):
    assert Recipe.load(RECIPES / name).problems() == []


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_names_its_run_command_and_its_trade_offs_on_top(name):
    assert f"\n#   python app.py train recipes/{name}\n" in comment(name) + "\n"
    assert "Trade-offs:" in comment(name)


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_is_named_like_its_file(name):
    assert Recipe.load(RECIPES / name).name == Path(name).stem


@pytest.mark.parametrize("name", shipped())
def test_every_command_in_a_recipes_comments_is_sound(name):
    commands = [line.split()[1:] for line in comment(name).splitlines() if line.startswith("#   python app.py train")]
    assert commands
    for _, _, _, path, *overrides in commands:
        assert Recipe.load(RECIPES.parent / path, overrides).problems() == []
