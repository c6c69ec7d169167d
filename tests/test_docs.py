"""What is written about the recipe is what the recipe is, and the documentation names files that exist."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

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


ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_links_in_the_documentation_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?:studio|tests|benchmarks|recipes|assets)/[\w/.-]+\.(?:py|yaml|js|md)", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
    linked = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    assert [link for link in linked if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_in_the_documentation_exist(page):
    for name in set(re.findall(r"`(studio(?:\.[a-z_]+)+)", page.read_text(encoding="utf-8"))):
        path = ROOT / name.replace(".", "/")
        while path.name and not (path.is_dir() or path.with_suffix(".py").exists()):  # a name within a module
            path = path.parent
            assert path != ROOT / "studio", name


def test_the_lock_file_has_the_versions_of_the_requirements():
    def pins(name):
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
        return {one.name.lower().replace("_", "-"): str(one.specifier) for one in wanted}

    locked, wanted = pins("requirements.lock"), pins("requirements.txt")
    wanted.pop("torch")  # its build depends on the platform
    assert wanted.items() <= locked.items()
    assert {"starlette", "fastapi", "python-multipart", "jinja2", "pillow"} <= set(locked)
