"""Model cards: facts from the small files."""

import shutil

import pytest
from tiny import set_config

from studio.errors import StudioError
from studio.models.model_info import describe
from studio.recipe import ModelSpec


def card(folder):
    return describe(ModelSpec(id=str(folder)))


@pytest.mark.parametrize("name", ["tiny_model", "tiny_gpt2"])
def test_parameters_are_what_the_loaded_model_has(name, request):
    from transformers import AutoModelForCausalLM

    folder = request.getfixturevalue(name)
    assert card(folder).parameters == AutoModelForCausalLM.from_pretrained(folder).num_parameters()


def test_a_chat_model_has_its_own_template(tiny_model):
    found = card(tiny_model)
    assert found.template == "its own"
    assert (found.architecture, found.context_length, found.vocabulary) == ("LlamaForCausalLM", 256, 480)
    assert found.dtype == "float32"


def test_gpt2_gets_chatml_and_its_old_names_are_read(tiny_gpt2):
    found = card(tiny_gpt2)
    assert found.template == "none: ChatML is used, with 2 added tokens"
    assert found.context_length == 128


def test_the_licence_comes_from_the_readme(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    assert card(folder).licence is None
    (folder / "LICENSE").write_text("Some Licence\nand its text")
    assert card(folder).licence == "Some Licence"
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model")
    assert card(folder).licence == "apache-2.0"


def test_a_nested_text_config_is_described(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    set_config(folder, max_position_embeddings=None, text_config={"max_position_embeddings": 77}, model_type="both")
    assert card(folder).context_length == 77


def test_missing_keys_are_not_known_rather_than_an_error(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    (folder / "config.json").write_text("{}")
    found = card(folder)
    assert (found.architecture, found.context_length, found.vocabulary) == (None, None, None)
    assert found.parameters


def test_a_cut_weights_file_is_refused(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StudioError, match="cut short"):
        card(folder)


def test_a_model_that_is_not_here_is_not_described(home):
    with pytest.raises(StudioError, match="not on this disk"):
        describe(ModelSpec(id="owner/name"))
