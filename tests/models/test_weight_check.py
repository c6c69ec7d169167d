"""Weights that are missing from a model, an adapter or a checkpoint are an error, not a new start."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_tiny_bert, make_tiny_chat_model

from studio.data.classes import Classes
from studio.errors import StudioError
from studio.models.load import load_model
from studio.recipe import ModelSpec

TWO = Classes(("a", "b"), multi_label=False)


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    return make_tiny_chat_model(tmp_path_factory.mktemp("models") / "untied", tie_word_embeddings=False)


def changed(source, folder, change):
    """A copy of a model whose tensors went through ``change``."""
    shutil.copytree(source, folder)
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    return folder


def without(part):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


def load(folder, **options):
    return load_model(ModelSpec(id=str(folder)), dtype="float32", **options)


@pytest.mark.parametrize("part", ["", "layers.1.self_attn.q_proj", "norm", "embed_tokens"])
@pytest.mark.parametrize("task", ["text", "classes"])
def test_security_07_a_model_without_some_of_its_weights_is_refused(tiny_model, tmp_path, part, task):
    folder = changed(tiny_model, tmp_path / "m", without(part))
    with pytest.raises(StudioError) as caught:
        load(folder, classes=TWO if task == "classes" else None)
    assert (caught.value.code, caught.value.field) == ("weights_missing", "model.id")


def test_security_07_a_text_model_without_its_output_head_is_refused(untied, tmp_path):
    with pytest.raises(StudioError) as caught:
        load(changed(untied, tmp_path / "m", without("lm_head")))
    assert caught.value.code == "weights_missing"


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_security_07_a_weight_of_another_shape_is_refused(tiny_model, tmp_path, quantization):
    name = "model.layers.0.self_attn.q_proj.weight"
    folder = changed(tiny_model, tmp_path / "m", lambda tensors: {**tensors, name: torch.zeros(8, 8)})
    with pytest.raises(StudioError) as caught:
        load_model(ModelSpec(id=str(folder), quantization=quantization), dtype="float32")
    assert caught.value.code == "weights_mismatched"


def test_security_07_tied_weights_and_a_new_head_are_not_missing(tiny_model, tmp_path):
    assert load(tiny_model).unexpected_weights == []
    assert load(tiny_model, classes=TWO).unexpected_weights == []
    bert = make_tiny_bert(tmp_path / "bert", kind="BertForMaskedLM")
    assert load(bert, classes=TWO).unexpected_weights == []


def test_security_07_weights_that_the_model_does_not_use_are_named(tiny_model, tmp_path):
    more = {"model.layers.9.x.weight": torch.zeros(3)}
    folder = changed(tiny_model, tmp_path / "m", lambda tensors: tensors | more)
    assert load(folder).unexpected_weights == list(more)
    assert load(folder, classes=TWO).unexpected_weights == list(more)
