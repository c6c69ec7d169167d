"""Messages name the form's labels, and the fields that they are about are known."""

import pytest

from studio.errors import StudioError, StudioErrors
from studio.recipe import METHODS, SECTIONS, Recipe
from studio.ui.field_names import element_ids, in_words, worded
from studio.ui.form import declared, label

REQUIRED = [
    f"{section}.{key}"
    for section, kind in SECTIONS.items()
    for key in kind.model_fields
    if declared(f"{section}.{key}").annotation in (int, float)
]


@pytest.mark.parametrize("path", REQUIRED)
def test_page_18_every_emptied_number_is_named_by_its_label_and_its_field_is_known(path):
    section, key = path.split(".")
    recipe = Recipe.parse({section: {key: None}})
    (problem,) = recipe.problems()
    assert problem.code == "field_empty"
    said = worded(problem)
    assert label(path) in said.what and path not in said.what + said.fix
    assert element_ids([problem], "lora") == [f"{section}-{key}"]


@pytest.mark.parametrize("value", [-1, 1.5, None])
def test_page_18_a_field_of_the_method_is_known_with_its_kind(value):
    problems = Recipe.parse({"method": {"kind": "lora", "lora_dropout": value}}).problems()
    assert element_ids(problems, "lora") == ["method-lora-lora_dropout"]


@pytest.mark.parametrize(
    "text", ["Read train.jsonl.", "See /home/data.source/x.", "data.jsonl is broken", "model.safetensors"]
)
def test_page_18_what_only_looks_like_a_field_stays_as_it_is(text):
    assert in_words(text) == text


def test_page_18_several_problems_are_worded_together():
    several = StudioErrors([StudioError("train.seed is empty.", "Mend it."), StudioError("method.r is 0.", "")])
    assert [problem.what for problem in worded(several).problems] == ["“Seed” is empty.", "“Rank (r)” is 0."]


def test_every_method_has_its_fields_in_the_form_under_its_kind():
    for kind, method in METHODS.items():
        for key in method.model_fields.keys() - {"kind"}:
            assert element_ids([StudioError("", "", field=f"method.{key}")], kind) == [f"method-{kind}-{key}"]
