"""GGUF by a converter that is not the studio's; a stand-in writes a true file of the tiny Llama."""

import json
from pathlib import Path

import pytest

from studio.errors import StudioError
from studio.export import Options, export

HELP = Path(__file__).resolve().parents[1] / "models"
STAND_IN = f"""
import sys
sys.path.insert(0, {str(HELP)!r})
from pathlib import Path
from gguf_file import write_tiny_gguf
model, _, out, _, kind = sys.argv[1:]
assert kind in ("f32", "f16")
write_tiny_gguf(Path(model), Path(out))
"""


@pytest.fixture
def converter(tmp_path, monkeypatch):
    """A function that puts a converter of these words where LLAMA_CPP says."""

    def put(text: str = STAND_IN) -> Path:
        folder = tmp_path / "llama.cpp"
        folder.mkdir()
        (folder / "convert_hf_to_gguf.py").write_text(text)
        monkeypatch.setenv("LLAMA_CPP", str(folder))
        return folder

    return put


def test_the_file_is_read_back_and_says_what_the_run_says(run_of, converter, tmp_path):
    converter()
    made = export(run_of(), "gguf", tmp_path / "out.gguf", Options(gguf_type="f32"))
    assert Path(made.path).read_bytes()[:4] == b"GGUF"
    assert "the file in f32 is within" in made.told[0]


def test_a_file_of_another_model_is_not_kept(run_of, converter, tmp_path):
    converter(
        STAND_IN.replace(
            "write_tiny_gguf(",
            "import safetensors.torch as s\n"
            "f = Path(model) / 'model.safetensors'\n"
            "s.save_file({k: v * 2 for k, v in s.load_file(f).items()}, f, {'format': 'pt'})\nwrite_tiny_gguf(",
        )
    )
    with pytest.raises(StudioError, match="does not say what the run says"):
        export(run_of(), "gguf", tmp_path / "out.gguf")
    assert not list(tmp_path.glob("*out*"))


def test_what_the_converter_says_when_it_fails_is_told(run_of, converter, tmp_path):
    converter("import sys; sys.exit('Model NoneSuch is not supported')")
    with pytest.raises(StudioError, match="NoneSuch is not supported"):
        export(run_of(), "gguf", tmp_path / "out.gguf")


def test_without_a_converter_it_says_what_to_install(run_of, monkeypatch):
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StudioError, match="LLAMA_CPP"):
        export(run_of(), "gguf")


def test_the_converter_does_not_get_the_token(run_of, converter, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    converter("import os, sys; sys.exit('token: ' + os.environ.get('HF_TOKEN', 'none'))")
    with pytest.raises(StudioError, match="token: none"):
        export(run_of(), "gguf", tmp_path / "out.gguf")


def test_ollama_takes_the_file_too(run_of, converter, tmp_path):
    converter()
    export(run_of(), "ollama", tmp_path / "out", Options(weights="gguf"))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"Modelfile", "model.gguf"}
    assert "FROM ./model.gguf" in (tmp_path / "out/Modelfile").read_text()


EVIL = """
from pathlib import Path
from transformers import PreTrainedTokenizerFast

Path({mark!r}).write_text("ran")


class Own(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def with_code(home, tiny_model, tmp_path):
    """A copy of a model whose tokenizer names code of its own, which leaves a file behind when it runs."""
    import shutil

    folder = shutil.copytree(tiny_model, tmp_path / "with-code")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    path.write_text(json.dumps(config))
    (folder / "own.py").write_text(EVIL.format(mark=str(tmp_path / "ran")))
    return folder


def test_security_01_ends_of_turns_run_no_code_and_ask_nobody(with_code, tmp_path, monkeypatch):
    from studio.export.llama_cpp import end_at_turns

    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked on the terminal"))
    end_at_turns(with_code, False)
    with pytest.raises(StudioError) as caught:
        end_at_turns(with_code, True)
    assert caught.value.code == "remote_code_not_allowed"
    assert not (tmp_path / "ran").exists()


def test_security_01_the_converter_gets_only_code_that_a_person_has_allowed(with_code):
    from studio.export.llama_cpp import ask_about_code
    from studio.models import remote_code
    from studio.recipe import ModelSpec

    with pytest.raises(StudioError) as caught:
        ask_about_code(with_code, True)
    assert caught.value.code == "remote_code_not_allowed"
    assert remote_code.find_code(with_code)
    remote_code.allow(ModelSpec(id=str(with_code)), with_code, remote_code.find_code(with_code).digest)
    ask_about_code(with_code, True)
    assert remote_code.find_code(with_code)
    ask_about_code(with_code, False)
    assert remote_code.find_code(with_code) is None


def test_data_10_a_gguf_file_ends_replies_where_the_chat_template_does(tiny_model, tmp_path):
    import shutil

    from transformers import AutoTokenizer

    from studio.export.llama_cpp import end_at_turns

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(folder)
    end_at_turns(folder)
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|im_end|>"
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == end
