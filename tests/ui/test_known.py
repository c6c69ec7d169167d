"""What the side panel knows of a recipe before it runs."""

import pytest

from studio.recipe import Recipe, Resolved
from studio.runs import Launcher, Run
from studio.ui.desk import Desk


@pytest.fixture
def desk(home):
    return Desk(Launcher())


def weights(desk, recipe, folder) -> int:
    return desk.known.numbers(recipe, folder, None).memory_bytes["weights"]


def ran(recipe: Recipe, device: str, dtype: str) -> None:
    made = Run.create(recipe)
    made.claim()
    recipe.model_copy(update={"resolved": Resolved(device=device, dtype=dtype)}).save(made.folder / "recipe.yaml")


def test_the_estimate_takes_the_number_format_that_the_last_run_chose_here(desk, tiny_model, monkeypatch):
    monkeypatch.setitem(desk.machine, "device", "CPU")
    monkeypatch.setattr(desk.index, "look", lambda max_age=0.0, look=desk.index.look: look())
    monkeypatch.setattr(desk.index, "version", lambda max_age=0.0, version=desk.index.version: version())
    recipe = Recipe.parse({"model": {"id": str(tiny_model)}})
    wide = weights(desk, recipe, tiny_model)
    ran(recipe, "NVIDIA H200", "bfloat16")
    assert weights(desk, recipe, tiny_model) == wide, "of another device"
    ran(Recipe.parse({"model": {"id": str(tiny_model), "dtype": "bfloat16"}}), "CPU", "bfloat16")
    assert weights(desk, recipe, tiny_model) == wide, "the recipe had named it"
    ran(recipe, "CPU", "bfloat16")
    assert weights(desk, recipe, tiny_model) == wide / 2
    named = Recipe.parse({"model": {"id": str(tiny_model), "dtype": "float32"}})
    assert weights(desk, named, tiny_model) == wide
    full = Recipe.parse({"model": {"id": str(tiny_model)}, "method": {"kind": "full"}})
    assert weights(desk, full, tiny_model) == wide
