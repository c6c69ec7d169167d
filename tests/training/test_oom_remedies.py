"""The ladder of a run that ran out of memory: in order, applicable, and each step saves what it says."""

import json

import pytest
from tiny import make_tiny_bert, make_tiny_chat_model

from studio.errors import StudioError
from studio.models.memory_estimate import estimate
from studio.recipe import Recipe
from studio.training.oom_remedies import Remedy, in_words, ladder, relieved, relieved_run, slower

GB = 10**9


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = make_tiny_chat_model(tmp_path_factory.mktemp("models") / "wide", hidden_size=256)
    return json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 16, "vocab_size": 32_000}


def recipe(**train) -> Recipe:
    values = {"per_device_train_batch_size": 8, "device": "cpu"} | train
    return Recipe.parse({"model": {"dtype": "float32"}, "data": {"max_length": 256}, "train": values}).check()


def total(one: Recipe, config: dict) -> int:
    return estimate(one, config, length=min(256, one.data.max_length)).memory_bytes["total"]


def keys(steps: list[Remedy]) -> list[str]:
    return [step.key for step in steps]


def test_the_steps_go_from_harmless_to_costly(config):
    assert keys(ladder(recipe(), config)) == ["batch", "checkpointing", "length", "quantization"]


def test_each_step_saves_what_it_says(config):
    one = recipe()
    for step in ladder(one, config):
        assert step.saves_bytes == total(one, config) - total(step.apply(one), config) > 0


@pytest.mark.parametrize("batch", [2, 6, 7, 8, 12])
def test_a_smaller_batch_keeps_the_effective_batch(config, batch):
    (step, *_) = ladder(recipe(per_device_train_batch_size=batch, gradient_accumulation_steps=3), config)
    train = step.apply(recipe(per_device_train_batch_size=batch, gradient_accumulation_steps=3)).train
    assert train.per_device_train_batch_size < batch
    assert train.per_device_train_batch_size * train.gradient_accumulation_steps == 3 * batch


def test_a_batch_is_made_no_smaller_than_it_takes(config):
    one = recipe()
    room = total(ladder(one, config)[0].apply(one), config)
    assert ladder(one, config, room)[0].changes["train.per_device_train_batch_size"] == 4


def test_the_validations_batch_shrinks_too(config):
    one = recipe(per_device_eval_batch_size=64)
    assert ladder(one, config)[0].changes["train.per_device_eval_batch_size"] <= 4


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"train": {"per_device_train_batch_size": 1}}, "batch"),
        ({"train": {"gradient_checkpointing": True}}, "checkpointing"),
        ({"method": {"kind": "prefix_tuning"}}, "checkpointing"),
        ({"data": {"max_length": 32}}, "length"),
        ({"model": {"quantization": "nf4"}}, "quantization"),
        ({"method": {"kind": "full"}}, "quantization"),
    ],
)
def test_a_step_that_does_not_apply_is_left_out(config, changes, missing):
    values = {"data": {"max_length": 256}, "train": {"device": "cpu"}}
    for section, more in changes.items():
        values[section] = values.get(section, {}) | more
    assert missing not in keys(ladder(Recipe.parse(values).check(), config))


def test_rows_are_cut_to_no_less_than_half(config):
    step = next(step for step in ladder(recipe(), config, 1, length=200) if step.key == "length")
    assert step.changes == {"data.max_length": 100}


def test_steps_are_taken_until_it_fits(config):
    one = recipe()
    for count in (1, 2, 3):
        wanted, room = one, total(one, config) - 1
        for step in ladder(one, config, 1)[:count]:
            wanted = step.apply(wanted)
            room = total(wanted, config)
        changed, taken = relieved(one, config, room)
        assert total(changed, config) <= room
        assert len(taken) <= count


def test_a_run_that_seemed_to_fit_shrinks_by_a_quarter(config):
    one = recipe()
    changed, taken = relieved(one, config, 1000 * GB)
    assert taken
    assert total(changed, config) <= 0.75 * total(one, config)


def test_what_never_fits_takes_every_step(config):
    changed, taken = relieved(recipe(), config, 1)
    assert keys(taken) == ["batch", "checkpointing", "length", "quantization"]
    assert changed.problems() == []


def test_a_recipe_that_cannot_shrink_says_so(config):
    smallest = Recipe.parse(
        {
            "model": {"quantization": "nf4"},
            "data": {"max_length": 16},
            "train": {"per_device_train_batch_size": 1, "gradient_checkpointing": True},
        }
    ).check()
    with pytest.raises(StudioError, match="made smaller"):
        relieved(smallest, config)


def test_a_classifier_has_a_ladder_too(tmp_path):
    folder = make_tiny_bert(tmp_path / "bert")
    one = Recipe.parse({"model": {"task": "seq_cls"}, "data": {"max_length": 64}, "train": {"device": "cpu"}}).check()
    assert keys(ladder(one, json.loads((folder / "config.json").read_text()), folder=folder))[0] == "batch"


def test_the_ladder_in_words_can_be_typed(config):
    words = in_words(ladder(recipe(), config))
    assert "train.per_device_train_batch_size=4 train.gradient_accumulation_steps=2" in words
    assert "train.gradient_checkpointing=True" in words


def test_a_model_that_is_not_here_is_refused_with_advice(home):
    with pytest.raises(StudioError) as caught:
        relieved_run(Recipe.parse({"model": {"id": "no-owner/no-model"}}), {"device": "cpu"})
    assert "per_device_train_batch_size" in caught.value.fix


def test_page_06_a_run_that_diverged_is_offered_the_suggested_rate_or_a_tenth_of_its_own():
    step = slower(recipe(learning_rate=0.01))
    assert step.apply(recipe(learning_rate=0.01)).train.learning_rate == 0.001
    assert slower(recipe(learning_rate=1)).changes == {"train.learning_rate": 0.001}
    assert slower(recipe(learning_rate=0.001)).changes == {"train.learning_rate": 0.0001}
