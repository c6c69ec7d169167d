"""What sets recipes apart, and nothing else."""

from studio.recipe import Recipe
from studio.runs.differences import ABSENT, differences, flattened


def plain(**values):
    return Recipe.parse(values).model_dump(mode="json")


def test_equal_recipes_do_not_differ():
    assert differences([plain(), plain()]) == []


def test_only_the_fields_that_differ_are_listed_in_the_order_of_the_recipe():
    found = differences(
        [plain(), plain(train={"learning_rate": 0.5}), plain(data={"max_length": 64}, train={"learning_rate": 0.5})]
    )
    assert [name for name, _ in found] == ["data.max_length", "train.learning_rate"]
    default = str(Recipe().train.learning_rate)
    assert found[1][1] == [default, "0.5", "0.5"]


def test_a_field_that_only_one_method_has_is_absent_from_the_others():
    found = dict(differences([plain(method={"kind": "lora", "r": 4}), plain(method={"kind": "full"})]))
    assert found["method.kind"] == ["lora", "full"]
    assert found["method.r"] == ["4", ABSENT]


def test_lists_are_compared_whole():
    assert differences([{"a": [1, 2]}, {"a": [1, 3]}]) == [("a", ["[1, 2]", "[1, 3]"])]


def test_versions_of_libraries_are_left_out():
    first, second = ({"resolved": {"device": d, "versions": {"torch": d}}} for d in ("cpu", "cuda"))
    assert differences([first, second]) == [("resolved.device", ["cpu", "cuda"])]


def test_nested_fields_have_dotted_names():
    assert flattened({"a": {"b": {"c": 1}}, "d": {}}) == {"a.b.c": 1, "d": {}}
