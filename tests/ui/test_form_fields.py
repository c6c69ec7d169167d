"""The form's fields for numbers: one press of an arrow key makes a small change, whatever the field."""

import gradio as gr
import pytest

from studio.recipe import METHODS, SECTIONS, Recipe
from studio.recipe.settings import limits_of, step_of
from studio.ui.form import Form, declared

PATHS = [f"{name}.{key}" for name, section in SECTIONS.items() for key in section.model_fields]
PATHS += [f"method.{kind}.{key}" for kind, method in METHODS.items() for key in method.model_fields]
FRACTIONS = [path for path in PATHS if declared(path).annotation is float]


@pytest.fixture(scope="module")
def form():
    made = Form(Recipe())
    with gr.Blocks():
        for path in FRACTIONS:
            made.add(path)
    return made


@pytest.mark.parametrize("path", FRACTIONS)
def test_page_05_an_arrow_key_changes_a_fraction_by_a_small_part_of_its_range(form, path):
    field, component = declared(path), form.fields[path]
    limits = limits_of(field)
    highest = limits.get("le", limits.get("lt", float("inf")))
    assert component.step <= highest / 10
    assert component.step <= max(abs(field.default), 1.0)
    if step_of(field) == "factor":
        assert form.number_fields()[component.elem_id]["factor"]
    else:
        assert field.default + component.step <= highest


def test_page_05_the_learning_rate_goes_by_factors_and_no_other_field_does(form):
    assert [path for path in FRACTIONS if step_of(declared(path)) == "factor"] == ["train.learning_rate"]


def test_page_05_the_script_knows_the_bounds_of_every_field_for_numbers(form):
    assert form.number_fields()["data-holdout"] == {"min": 0, "max": 0.5, "factor": False}
    assert form.number_fields()["method-lora-lora_dropout"]["max"] == 1
