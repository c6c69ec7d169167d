"""What is written about the recipe is what the recipe is."""

import pytest

from studio.recipe import METHODS, Resolved
from studio.recipe.reference import PAGE, reference, settings


def test_the_reference_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: python -m studio.recipe.reference"


@pytest.mark.parametrize("setting", settings(), ids=lambda setting: f"{setting.method}{setting.path}")
def test_every_knob_is_explained_in_a_plain_sentence(setting):
    assert len(setting.help) > 10
    assert setting.help[0].isupper() or setting.help.startswith(("auto ", "sha256"))
    assert setting.help.endswith(".")


def test_every_knob_has_a_row_in_the_reference():
    page = reference()
    for setting in settings():
        assert setting.path == "method.kind" or f"\n| `{setting.name}` |" in page, setting.path


def test_every_section_and_method_tells_its_story():
    page = reference()
    for kind, method in METHODS.items():
        assert method.__doc__, kind
        assert f"### {kind}\n" in page
    assert all(field.description for field in Resolved.model_fields.values())


def test_no_knob_stands_twice():
    paths = [(setting.path, setting.method) for setting in settings()]
    assert len(set(paths)) == len(paths)
