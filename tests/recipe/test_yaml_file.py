"""Recipes are bounded, have no aliases and no key twice; refusals carry a code and stay short."""

import time

import pytest

from studio.errors import StudioError
from studio.recipe import MOST_PROBLEMS, Recipe
from studio.recipe.yaml_file import MOST_BYTES, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


def refusal(text: str) -> StudioError:
    with pytest.raises(StudioError) as caught:
        read_yaml(text, "It")
    return caught.value


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("train: {seed: 1}\ntrain: {max_steps: 3}", "train"),
        ("train:\n  seed: 1\n  seed: 1\n", "seed"),
        ("data:\n  mix:\n  - {source: a, weight: 1, source: b}\n", "source"),
        ("1: a\n1: b\n", "1"),
        ("'train': {}\ntrain: {}\n", "train"),
    ],
)
def test_results_06_a_key_that_stands_twice_is_refused_by_its_name(text, key):
    error = refusal(text)
    assert error.code == "recipe_duplicate_key"
    assert repr(key) in error.what


def test_results_06_a_recipe_file_and_an_override_with_a_key_twice_are_refused(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("train: {seed: 1}\ntrain: {max_steps: 3}\n")
    with pytest.raises(StudioError) as caught:
        Recipe.load(path)
    assert caught.value.code == "recipe_duplicate_key"
    path.write_text("train: {seed: 1}\n")
    with pytest.raises(StudioError) as caught:
        Recipe.load(path, ["train={seed: 1, seed: 2}"])
    assert caught.value.code == "recipe_duplicate_key"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (BOMB, "recipe_alias"),
        ("train: &a {seed: 1}\n", "recipe_alias"),
        ("train: &a {seed: 1}\ndata: *a\n", "recipe_alias"),
        ("a: " + "[" * 100_000, "recipe_too_deep"),
        ("a: " + "{b: " * 30 + "1" + "}" * 30, "recipe_too_deep"),
        ("".join("  " * i + "a:\n" for i in range(400)), "recipe_too_deep"),
        ("x: " + "y" * MOST_BYTES, "recipe_too_large"),
        ("ü" * (MOST_BYTES // 2 + 1), "recipe_too_large"),
        ("".join(f"k{i}: 1\n" for i in range(60_000)), "recipe_too_large"),
        ("x: 2020-13-45", "recipe_yaml"),
        ("x: " + "9" * 5000, "recipe_yaml"),
        ("x: !!timestamp no", "recipe_yaml"),
        ("x: !!int ''", "recipe_yaml"),
        ("{[a]: b}", "recipe_yaml"),
        ("a: 1\n---\na: 2", "recipe_yaml"),
        ("name: [", "recipe_yaml"),
    ],
)
def test_security_05_hostile_yaml_is_refused_at_once_and_shortly(text, code):
    begun = time.perf_counter()
    error = refusal(text)
    assert error.code == code
    assert len(str(error)) < 600
    assert time.perf_counter() - begun < 3


def test_security_05_a_large_recipe_file_is_not_read(tmp_path):
    path = tmp_path / "large.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 34)  # 16 GB without any on the disk
    with pytest.raises(StudioError) as caught:
        Recipe.load(path)
    assert caught.value.code == "recipe_too_large"


@pytest.mark.parametrize(
    "text",
    [
        "train: {" + ", ".join(f"k{i}: 1" for i in range(9000)) + "}",
        "".join(f"k{i}: 1\n" for i in range(9000)),
        "train: {seed: '" + "x" * 900_000 + "'}",
        "method: {kind: '" + "x" * 900_000 + "'}",
        f"{'x' * 900_000}: 1",
        "1: 2\n[3]: 4\n",
        "1: 2\nnull: {a: 1}\n2.5: 1\n",
    ],
)
def test_security_05_many_and_long_mistakes_make_a_short_report_at_once(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    begun = time.perf_counter()
    try:
        problems = Recipe.load(path).problems()
    except StudioError as error:
        problems = [error]
    assert problems
    assert len(problems) <= MOST_PROBLEMS + 5
    assert sum(len(str(problem)) for problem in problems) < 50_000
    assert time.perf_counter() - begun < 5


def test_security_05_a_saved_recipe_has_no_aliases(tmp_path):
    values = ["a", "b"]
    recipe = Recipe.parse({"method": {"kind": "lora", "target_modules": values, "modules_to_save": values}})
    recipe.save(tmp_path / "a.yaml")
    assert Recipe.load(tmp_path / "a.yaml").method == recipe.method


def test_an_override_of_a_file_that_is_no_mapping_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("- a\n")
    with pytest.raises(StudioError):
        Recipe.load(tmp_path / "a.yaml", ["name=x"])
