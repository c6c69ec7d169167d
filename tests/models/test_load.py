"""Loading: number formats, foreign code, broken and dangerous files."""

import pickle
import shutil

import pytest
from tiny import set_config

from studio.errors import StudioError
from studio.models.load import load_model, load_tokenizer, resolve_dtype
from studio.recipe import ModelSpec


@pytest.fixture
def copied(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "m")


def load(folder, **fields):
    return load_model(ModelSpec(id=str(folder), **fields))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_named_format_is_loaded(tiny_model, dtype):
    assert str(load(tiny_model, dtype=dtype).dtype) == f"torch.{dtype}"


def test_a_named_format_stays():
    assert resolve_dtype("float16", "nowhere") == "float16"


def test_the_same_cpu_always_takes_the_same_format():
    assert len({resolve_dtype("auto", "cpu") for _ in range(3)}) == 1


def test_mps_takes_float32():
    assert resolve_dtype("auto", "mps") == "float32"


def test_tied_embeddings_stay_tied(tiny_model):
    model = load(tiny_model)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_a_bin_file_of_numbers_loads(copied):
    import torch
    from safetensors.torch import load_file

    expected = load_file(copied / "model.safetensors")
    torch.save(expected, copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    assert torch.equal(
        load(copied, dtype="float32").get_input_embeddings().weight, expected["model.embed_tokens.weight"]
    )


class Payload:
    """What a hostile pickle is: a call that unpickling makes."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("container", ["pickle", "torch"])
def test_a_bin_file_that_runs_code_is_refused_and_does_not_run(copied, tmp_path, container):
    import torch

    (copied / "model.safetensors").unlink()
    target = copied / "pytorch_model.bin"
    if container == "torch":
        torch.save({"a": Payload(tmp_path / "ran")}, target)
    else:
        target.write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(StudioError) as caught:
        load(copied)
    assert "refused" in caught.value.what
    assert not (tmp_path / "ran").exists()


def test_a_model_with_code_of_its_own_is_not_run_and_the_choice_is_explained(copied, tmp_path):
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n"
    (copied / "modeling_mine.py").write_text(code)
    names = {"AutoConfig": "modeling_mine.Config", "AutoModelForCausalLM": "modeling_mine.Model"}
    set_config(copied, model_type="mine", auto_map=names)
    with pytest.raises(StudioError) as caught:
        load(copied)
    assert caught.value.field == "model.trust_remote_code"
    assert "can do anything" in caught.value.fix
    assert not (tmp_path / "ran").exists()


def test_an_unknown_architecture_is_told(copied):
    set_config(copied, model_type="from-the-future", architectures=["FutureForCausalLM"])
    with pytest.raises(StudioError, match="not known to the installed transformers"):
        load(copied)


def test_an_encoder_is_not_a_model_that_continues_text(copied):
    set_config(copied, model_type="t5", architectures=["T5Model"])
    with pytest.raises(StudioError):
        load(copied)


def test_cut_weights_are_a_plain_error(copied):
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(StudioError, match="safetensors"):
        load(copied)


def test_a_broken_tokenizer_is_a_plain_error(copied):
    (copied / "tokenizer.json").write_text("{")
    with pytest.raises(StudioError):
        load_tokenizer(copied)


def test_any_text_survives_the_tokenizer(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    text = "<|im_start|>user\n Héllo  wörld 你好 🎉\n\n\t1234<|im_end|>\n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
