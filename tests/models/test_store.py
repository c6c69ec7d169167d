"""Where a model comes from: folders, GGUF files, ids that are none."""

import json
import shutil
import threading

import pytest
from fake_hub import wait_until

from studio.errors import StudioError
from studio.jobs.progress import slug
from studio.models import store
from studio.models.convert import MARK, convert
from studio.recipe import ModelSpec
from studio.workspace import Workspace


def refusal(model_id: str) -> StudioError:
    with pytest.raises(StudioError) as caught:
        store.fetch(ModelSpec(id=model_id))
    return caught.value


def copy(folder, to):
    return shutil.copytree(folder, to)


def test_a_local_folder_is_taken_as_it_is(home, tiny_model):
    assert store.fetch(ModelSpec(id=str(tiny_model))) == tiny_model.resolve()


def test_a_folder_without_config_is_refused(home, tiny_model, tmp_path):
    (copy(tiny_model, tmp_path / "m") / "config.json").unlink()
    assert "no config.json" in refusal(str(tmp_path / "m")).what


def test_a_folder_without_weights_is_refused(home, tiny_model, tmp_path):
    (copy(tiny_model, tmp_path / "m") / "model.safetensors").unlink()
    assert "no weights" in refusal(str(tmp_path / "m")).what


def test_a_folder_without_tokenizer_is_refused(home, tiny_model, tmp_path):
    (copy(tiny_model, tmp_path / "m") / "tokenizer.json").unlink()
    assert "no tokenizer" in refusal(str(tmp_path / "m")).what


def test_a_missing_shard_is_named(home, tiny_model, tmp_path):
    folder = copy(tiny_model, tmp_path / "m")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00002.safetensors" in refusal(str(folder)).what


def test_an_adapter_is_not_a_base_model(home, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "adapter" in refusal(str(tmp_path)).what


@pytest.mark.parametrize("path", ["./nowhere", "/no/such/folder", "a/b/c", "~/none-of-this", "models\\mine"])
def test_a_path_that_does_not_exist_is_called_a_path(home, path):
    assert "no folder or .gguf file" in refusal(path).what


@pytest.mark.parametrize("model_id", ["owner/na me", "owner/..name", "owner/name?x=1", "-x/y", "ow--ner/name"])
def test_what_cannot_be_an_id_is_refused_without_asking_anyone(home, model_id):
    error = refusal(model_id)
    assert error.field == "model.id"
    assert "neither" in error.what


def test_an_unknown_builtin_names_the_known_one(home):
    assert "builtin/smollm2-135m-instruct" in refusal("builtin/gpt-9").fix


def test_a_file_that_is_no_gguf_is_refused(home, tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"not a model at all")
    assert refusal(str(tmp_path / "m.gguf")).code == "gguf_broken"


def test_a_broken_gguf_is_a_plain_error_and_leaves_nothing(home, tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(60))
    assert "m.gguf" in refusal(str(tmp_path / "m.gguf")).what
    assert list(Workspace.current().models.iterdir()) == []
    assert [p.name for p in Workspace.current().downloads.iterdir() if p.is_dir()] == []


@pytest.fixture
def conversions(monkeypatch, tiny_model):
    """Conversion replaced by a copy of the tiny model; the list of what was converted."""
    done = []

    def fake(source, destination):
        done.append(source.name)
        shutil.copytree(tiny_model, destination)

    monkeypatch.setattr(store, "convert", fake)
    return done


def test_a_gguf_is_converted_once(home, tmp_path, conversions):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF-one")
    folder = store.fetch(ModelSpec(id=str(path)))
    assert store.fetch(ModelSpec(id=str(path))) == folder
    assert conversions == ["m.gguf"]
    assert store.revision_of(folder).startswith("sha256:")


def test_a_changed_gguf_is_another_model(home, tmp_path, conversions):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF-one")
    first = store.fetch(ModelSpec(id=str(path)))
    path.write_bytes(b"GGUF-other")
    assert store.fetch(ModelSpec(id=str(path))) != first


def test_the_second_of_two_fetches_waits_and_says_so(home, tmp_path, conversions):
    from filelock import FileLock

    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF-one")
    said, got = [], []
    with FileLock(Workspace.current().downloads / f"{slug(str(path))}.lock"):
        spec = ModelSpec(id=str(path))
        thread = threading.Thread(target=lambda: got.append(store.fetch(spec, progress=lambda *a: said.append(a[0]))))
        thread.start()
        assert wait_until(lambda: said)
    thread.join(10)
    assert said[0].startswith("Waiting for another download")
    assert got[0].is_dir()


def test_is_local_knows_without_asking_the_network(home, tiny_model):
    assert store.is_local(ModelSpec(id=str(tiny_model)))
    assert not store.is_local(ModelSpec())
    assert not store.is_local(ModelSpec(id="owner/name"))
    assert not store.is_local(ModelSpec(id="a b c"))


@pytest.mark.slow
def test_a_tiny_gguf_becomes_the_same_model(tmp_path, tiny_model):
    """Written by the gguf library, read back through the converter: same tokens, same logits to bfloat16."""
    import torch
    from gguf_file import write_tiny_gguf
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = write_tiny_gguf(tiny_model, tmp_path / "tiny.gguf")
    convert(source, tmp_path / "out")
    before, after = (AutoTokenizer.from_pretrained(f) for f in (tiny_model, tmp_path / "out"))
    text = "<|im_start|>user\nHéllo 你好 🎉 42<|im_end|>\n"
    assert after(text).input_ids == before(text).input_ids
    assert after.chat_template == before.chat_template
    ids = torch.tensor([before(text).input_ids])
    models = [
        AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32).eval() for f in (tiny_model, tmp_path / "out")
    ]
    assert torch.allclose(models[0](ids).logits, models[1](ids).logits, atol=0.02)
    assert not (tmp_path / "out" / MARK).exists()
