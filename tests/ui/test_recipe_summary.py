"""What the side panel knows of a recipe before it runs."""

import json

import pytest

from studio.data.conversations import survey
from studio.models.builtin import MODELS
from studio.recipe import Recipe, Resolved
from studio.runs import Launcher, Run
from studio.training.launch_check import examine_files
from studio.ui import views
from studio.ui.context import AppContext
from studio.ui.model import tab


@pytest.fixture
def context(home):
    return AppContext(Launcher())


def weights(context, recipe, folder) -> int:
    return context.known.numbers(recipe, folder, None).memory_bytes["weights"]


def ran(recipe: Recipe, device: str, dtype: str) -> None:
    made = Run.create(recipe)
    made.claim()
    recipe.model_copy(update={"resolved": Resolved(device=device, dtype=dtype)}).save(made.folder / "recipe.yaml")


def test_the_estimate_takes_the_number_format_that_the_last_run_chose_here(context, tiny_model, monkeypatch):
    monkeypatch.setitem(context.machine, "device", "CPU")
    monkeypatch.setattr(context.index, "look", lambda max_age=0.0, look=context.index.look: look())
    monkeypatch.setattr(context.index, "version", lambda max_age=0.0, version=context.index.version: version())
    recipe = Recipe.parse({"model": {"id": str(tiny_model)}})
    wide = weights(context, recipe, tiny_model)
    ran(recipe, "NVIDIA H200", "bfloat16")
    assert weights(context, recipe, tiny_model) == wide, "of another device"
    ran(Recipe.parse({"model": {"id": str(tiny_model), "dtype": "bfloat16"}}), "CPU", "bfloat16")
    assert weights(context, recipe, tiny_model) == wide, "the recipe had named it"
    ran(recipe, "CPU", "bfloat16")
    assert weights(context, recipe, tiny_model) == wide / 2
    named = Recipe.parse({"model": {"id": str(tiny_model), "dtype": "float32"}})
    assert weights(context, named, tiny_model) == wide
    full = Recipe.parse({"model": {"id": str(tiny_model)}, "method": {"kind": "full"}})
    assert weights(context, full, tiny_model) == wide


@pytest.fixture
def panel(context, tiny_model, tmp_path, monkeypatch):
    """The panel for a recipe with these rows and settings; what the preview process does is done here."""
    monkeypatch.setattr(context.viewer, "examine", lambda recipe, session="": examine_files(recipe))
    monkeypatch.setattr(context.viewer, "survey", lambda recipe, session="": survey(recipe.data))

    def show(rows=None, **sections):
        path = tmp_path / "rows.jsonl"
        good = [{"prompt": f"Say {number}.", "completion": f"{number}."} for number in range(20)]
        path.write_text("\n".join(map(json.dumps, rows or good)), encoding="utf-8")
        values = {"model": {"id": str(tiny_model)}, "data": {"source": str(path), "max_length": 64}}
        for name, fields in sections.items():
            values[name] = values.get(name, {}) | fields
        recipe = Recipe.parse(values)
        context.known.launch_check(recipe, patience=60)
        return context.known.glance(recipe), context.known.stops(recipe)

    return show


def test_page_04_the_panel_is_ready_for_a_sound_recipe_and_says_what_is_unusual(panel):
    seen, stops = panel()
    assert (seen.ready, stops) == (True, [])
    seen, stops = panel(train={"learning_rate": 1, "max_steps": 6, "warmup_steps": 20})
    assert (seen.ready, stops) == (True, [])
    assert seen.html.count("message warn") == 2


def test_page_04_the_panel_is_not_ready_with_a_broken_chat_template(panel):
    seen, stops = panel(data={"chat_template": "{% for message in messages %}{{ message.content }}"})
    assert not seen.ready
    assert [stop.field for stop in stops] == ["data.chat_template"]
    assert "data-chat_template" in seen.html


def test_page_17_rows_that_only_the_encoder_rejects_are_asked_about(panel):
    rows = [{"prompt": "x " * 200, "completion": "far behind"}, {"prompt": "Say 1.", "completion": "1."}] * 4
    seen, (stop,) = panel(rows, data={"max_length": 32})
    assert (seen.ready, seen.asks, stop.code) == (False, True, "rejected_rows")
    seen, (stop,) = panel(rows, data={"max_length": 32, "invalid_rows": "stop"})
    assert (seen.ready, seen.asks, stop.code) == (False, False, "rejected_rows")
    seen, stops = panel(rows, data={"max_length": 32, "invalid_rows": "drop"})
    assert (seen.ready, seen.asks, stops) == (True, False, [])


def test_page_11_a_missing_model_folder_is_one_problem_and_nothing_is_fetched(panel, context):
    missing = "/nowhere/at/all"
    seen, (stop,) = panel(model={"id": missing})
    assert stop.field == "model.id"
    assert "Fetched" not in seen.html
    html, offers = tab.show(context, Recipe.parse({"model": {"id": missing}}))
    assert not offers
    assert html == views.problem(stop)


@pytest.mark.parametrize("name", MODELS)
def test_page_12_the_size_of_a_built_in_models_download_is_that_of_its_wheel(context, name):
    html, offers = tab.show(context, Recipe.parse({"model": {"id": name}}))
    assert offers
    assert views.size(MODELS[name].wheel_bytes) in html
    others = {views.size(model.wheel_bytes) for model in MODELS.values()} - {views.size(MODELS[name].wheel_bytes)}
    assert not any(size in html for size in others)
