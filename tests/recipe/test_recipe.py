"""The recipe: what it accepts, what it refuses, and that it says everything at once."""

import pytest
import yaml

from studio.errors import StudioError, StudioErrors
from studio.recipe import METHODS, Recipe


@pytest.fixture
def write(tmp_path):
    """Writes a recipe's text and returns its path."""

    def write(text: str):
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problem(recipe: Recipe) -> StudioError:
    problems = recipe.problems()
    assert len(problems) == 1, problems
    return problems[0]


def test_an_empty_recipe_is_sound_and_takes_its_name_from_the_file(write):
    recipe = Recipe.load(write(""))
    assert recipe.problems() == []
    assert recipe.name == "mine"
    assert recipe.method.kind == "lora"


@pytest.mark.parametrize(
    ("text", "field", "near"),
    [
        ("train: {learning_rat: 0.1}", "train.learning_rat", "learning_rate"),
        ("method: {kind: lora, rr: 8}", "method.rr", "r"),
        ("modl: {}", "modl", "model"),
        ("data: {max_lenght: 100}", "data.max_lenght", "max_length"),
    ],
)
def test_an_unknown_key_is_refused_with_the_name_that_was_meant(write, text, field, near):
    found = problem(Recipe.load(write(text)))
    assert found.field == field
    assert found.fix == f"Did you mean {near}?"


def test_an_unknown_key_like_no_other_is_sent_to_the_reference(write):
    assert "docs/recipe.md" in problem(Recipe.load(write("train: {zzzzzz: 1}"))).fix


@pytest.mark.parametrize(
    ("text", "field", "bound"),
    [
        ("train: {learning_rate: 2}", "train.learning_rate", "1"),
        ("train: {learning_rate: 0}", "train.learning_rate", "above 0"),
        ("method: {kind: lora, r: 2000}", "method.r", "1,024"),
        ("data: {holdout: 0.9}", "data.holdout", "0.5"),
        ("train: {seed: -1}", "train.seed", "0"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_the_bounds(write, text, field, bound):
    found = problem(Recipe.load(write(text)))
    assert found.field == field
    assert bound in found.fix


def test_a_value_that_is_none_of_the_choices_is_refused_with_the_choices(write):
    found = problem(Recipe.load(write("data: {train_on: everything}")))
    assert found.field == "data.train_on"
    assert "assistant, last, all" in found.fix


def test_a_method_of_unknown_kind_is_refused_with_the_kinds(write):
    found = problem(Recipe.load(write("method: {kind: lorra, r: 8}")))
    assert found.field == "method.kind"
    assert "'lorra'" in found.what
    assert all(kind in found.fix for kind in METHODS)


def test_a_method_without_a_kind_is_refused(write):
    assert problem(Recipe.load(write("method: {r: 8}"))).field == "method.kind"


def test_a_field_of_another_method_is_refused(write):
    assert problem(Recipe.load(write("method: {kind: full, r: 8}"))).field == "method.r"


def test_all_problems_are_reported_at_once(write):
    text = """
    model: {quantization: nf4, dtyp: auto}
    data: {max_length: 1}
    method: {kind: full}
    train: {max_steps: 0, learning_rate: fast}
    """
    fields = [p.field for p in Recipe.load(write(text)).problems()]
    expected = ["model.dtyp", "data.max_length", "train.learning_rate", "model.quantization", "train.max_steps"]
    assert sorted(fields) == sorted(expected)


def test_check_raises_every_problem_and_returns_a_sound_recipe(write):
    with pytest.raises(StudioErrors) as caught:
        Recipe.load(write("train: {seed: -1, max_steps: 0}")).check()
    assert [p.field for p in caught.value.problems] == ["train.seed", "train.max_steps"]
    sound = Recipe()
    assert sound.check() is sound


def test_every_problem_says_what_and_how_to_mend_it(write):
    recipe = Recipe.load(write("a: 1\ntrain: {seed: x, optim: best}\nmethod: {kind: no}\nmodel: 3"))
    assert len(recipe.problems()) == 5
    assert all(p.what and p.fix for p in recipe.problems())


@pytest.mark.parametrize("text", ["- a\n- b", "just words", "3"])
def test_a_file_that_is_no_mapping_is_refused(write, text):
    assert "not a mapping" in problem(Recipe.load(write(text))).what


def test_broken_yaml_names_its_line(write):
    with pytest.raises(StudioError, match="line 3"):
        Recipe.load(write("model: {}\ndata: {}\ntrain: seed: 1\nname: x\n"))


def test_a_missing_file_names_the_recipes_that_there_are(tmp_path):
    with pytest.raises(StudioError, match=r"quickstart\.yaml"):
        Recipe.load(tmp_path / "none.yaml")


def test_a_folder_and_a_binary_file_are_refused(tmp_path):
    with pytest.raises(StudioError, match="is a folder"):
        Recipe.load(tmp_path)
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(StudioError, match="not a text file"):
        Recipe.load(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.learning_rate=1e-3", ("train", "learning_rate"), 1e-3),  # YAML 1.1 reads 1e-3 as text
        ("train.weight_decay=1e-2", ("train", "weight_decay"), 1e-2),
        ("train.max_steps=-1", ("train", "max_steps"), -1),
        ("train.gradient_checkpointing=true", ("train", "gradient_checkpointing"), True),
        ("model.revision=null", ("model", "revision"), None),
        ("method.target_modules=[q_proj, v_proj]", ("method", "target_modules"), ["q_proj", "v_proj"]),
        ("data.columns={prompt: a}", ("data", "columns"), {"prompt": "a"}),
        ("data.columns.prompt=a=b", ("data", "columns"), {"prompt": "a=b"}),
        ("data.source=C:/rows.jsonl", ("data", "source"), "C:/rows.jsonl"),
    ],
)
def test_an_override_is_yaml_at_a_dotted_path(write, override, path, value):
    recipe = Recipe.load(write("method: {kind: lora}"), [override])
    assert recipe.problems() == []
    found = getattr(getattr(recipe, path[0]), path[1])
    assert found == value
    assert type(found) is type(value)


def test_an_override_goes_before_the_file_and_the_last_one_wins(write):
    recipe = Recipe.load(write("train: {seed: 1, max_steps: 5}"), ["train.seed=2", "train.seed=3"])
    assert (recipe.train.seed, recipe.train.max_steps) == (3, 5)


def test_an_override_can_change_the_method(write):
    assert Recipe.load(write("name: x"), ["method.kind=full"]).check().method.kind == "full"


def test_an_override_of_an_unknown_field_is_a_problem_like_any_other(write):
    assert problem(Recipe.load(write(""), ["train.epochs=2"])).field == "train.epochs"


@pytest.mark.parametrize("override", ["train.seed", "=3", "train..seed=1", "train.seed=[1", "name.x=1"])
def test_what_is_no_override_is_refused(write, override):
    with pytest.raises(StudioError):
        Recipe.load(write("name: x"), [override])


def test_a_recipe_survives_saving_and_loading(tmp_path):
    recipe = Recipe.parse(
        {
            "name": "Größe",
            "model": {"revision": "v1"},
            "data": {"columns": {"prompt": "Frage"}, "system_prompt": "Sei kurz.\nUnd klar: ja"},
            "method": {"kind": "lora", "target_modules": ["q_proj"]},
            "train": {"learning_rate": 1e-5},
        }
    )
    recipe.check().save(tmp_path / "saved.yaml")
    again = Recipe.load(tmp_path / "saved.yaml").check()
    assert again == recipe
    assert [p.name for p in tmp_path.iterdir()] == ["saved.yaml"]


def test_a_saved_recipe_spells_every_field_out(tmp_path):
    Recipe().save(tmp_path / "saved.yaml")
    values = yaml.safe_load((tmp_path / "saved.yaml").read_text())
    assert set(values["train"]) == set(type(Recipe().train).model_fields)
    assert "resolved" not in values


def test_a_recipe_saved_many_times_at_once_is_always_whole(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    path = tmp_path / "recipe.yaml"
    recipes = [Recipe(name=f"name-{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: recipes[number % 8].save(path), range(200)))
    assert Recipe.load(path).name in {recipe.name for recipe in recipes}
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize(("written", "meant"), [("on", "on"), ("off", "off"), ("auto", "auto"), ("'on'", "on")])
def test_a_switch_is_read_as_it_is_written_although_yaml_calls_on_and_off_booleans(written, meant, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"train: {{torch_compile: {written}}}\n")
    recipe = Recipe.load(path)
    assert not recipe.problems() and recipe.train.torch_compile == meant
    recipe.save(path)
    assert Recipe.load(path, [f"train.padding_free={written}"]).train.torch_compile == meant
    assert Recipe.load(path, [f"train.padding_free={written}"]).train.padding_free == meant
