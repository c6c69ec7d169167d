"""What is written about the recipe is what the recipe is."""

import pytest

from studio.recipe import METHODS, Resolved
from studio.recipe_docs import PAGE, knobs, reference


def test_the_reference_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: python -m studio.recipe_docs"


@pytest.mark.parametrize("knob", knobs(), ids=lambda knob: f"{knob.method}{knob.path}")
def test_every_knob_is_explained_in_a_plain_sentence(knob):
    assert len(knob.help) > 10
    assert knob.help[0].isupper() or knob.help.startswith(("auto ", "sha256"))
    assert knob.help.endswith(".")


def test_every_knob_has_a_row_in_the_reference():
    page = reference()
    for knob in knobs():
        assert knob.path == "method.kind" or f"\n| `{knob.name}` |" in page, knob.path


def test_every_section_and_method_tells_its_story():
    page = reference()
    for kind, method in METHODS.items():
        assert method.__doc__, kind
        assert f"### {kind}\n" in page
    assert all(field.description for field in Resolved.model_fields.values())


def test_no_knob_stands_twice():
    paths = [(knob.path, knob.method) for knob in knobs()]
    assert len(set(paths)) == len(paths)
