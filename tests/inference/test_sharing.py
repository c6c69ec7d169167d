"""Adapters of every kind around one copy of the base's tensors, checkpoints as models, and models that go when idle."""

from __future__ import annotations

import pytest
import torch
from lessons import done, lesson, write_rows
from lora_runs import add_run, logits, reference

from studio.errors import StudioError
from studio.inference import Engine, Target, stream
from studio.inference.types import Sampling
from studio.models.load import load_model, load_tokenizer
from studio.models.methods import apply_method
from studio.recipe import Recipe
from studio.recipe.methods import METHODS, WHOLE

ADAPTERS = [kind for kind in METHODS if kind not in WHOLE]


def saved_adapter(base, folder, kind: str, seed: int):
    """An adapter of a kind with random numbers in it, as the worker saves it."""
    recipe = Recipe.parse({"model": {"id": str(base), "dtype": "float32"}, "method": {"kind": kind}})
    torch.manual_seed(seed)
    model = apply_method(load_model(recipe.model), recipe, [])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(models, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return {kind: saved_adapter(models["base"], root / kind, kind, n) for n, kind in enumerate(ADAPTERS)}


@pytest.fixture
def opened(adapters, models, engine, base, tmp_path, monkeypatch):
    """The base and a run of every method, all open at once."""
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path))
    for kind, folder in adapters.items():
        add_run(tmp_path, kind, models["base"], folder, method=METHODS[kind]())
    return engine.open(base), {kind: engine.open(kind) for kind in adapters}


def test_the_base_keeps_its_logits_bit_by_bit_with_an_adapter_of_every_method_open(opened, models):
    handle, _ = opened
    assert torch.equal(logits(handle), reference(models["base"]))


def test_every_method_has_its_own_logits_with_all_others_open(opened, models, adapters):
    handle, tuned = opened
    for kind, folder in adapters.items():
        assert torch.equal(logits(tuned[kind]), reference(models["base"], folder)), kind
        assert torch.equal(logits(handle), reference(models["base"])), f"after {kind}"


def test_adapters_of_every_method_share_the_tensors_of_one_base(opened, engine):
    handle, tuned = opened
    owned = {p.data_ptr() for p in handle.weights.model.parameters()}
    for kind, pane in tuned.items():
        theirs = {p.data_ptr() for p in pane.weights.model.parameters()}
        assert len(owned & theirs) >= 15, kind
    (entry,) = engine.loaded()
    assert set(entry["targets"]) >= set(tuned)


def test_an_adapter_whose_start_changes_the_base_gets_a_copy_of_its_own(workspace, models, engine, base, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(models["base"], dtype=torch.float32)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="pissa", task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(tmp_path / "pissa")
    handle = engine.open(base)
    tuned = engine.open(Target("adapter", "adapter:pissa", model=base.model, adapter=str(tmp_path / "pissa")))
    assert tuned.weights is not handle.weights
    assert torch.equal(logits(handle), reference(models["base"]))


@pytest.fixture
def trained(home, tiny_model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl")
    return lambda kind, **more: done(lesson(tiny_model, rows, method={"kind": kind}, max_steps=4, **more))


@pytest.mark.parametrize("kind", ["full", "freeze", "lora", "adalora", "p_tuning", "prefix_tuning", "vera"])
def test_the_last_checkpoint_of_a_run_has_the_logits_of_its_model(trained, engine, kind):
    run = trained(kind)
    last, first = engine.open(f"{run.id}@4"), engine.open(f"{run.id}@2")
    assert torch.equal(logits(last), logits(engine.open(run.id)))
    assert not torch.equal(logits(first), logits(last))


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(trained, engine):
    run = trained("lora")
    with pytest.raises(StudioError, match="no checkpoint at step 3") as caught:
        engine.open(f"{run.id}@3")
    assert f"{run.id}@4" in caught.value.fix


def test_a_checkpoint_that_fits_a_changed_base_is_refused_with_the_reason(home, tiny_model, tmp_path, engine):
    rows = write_rows(tmp_path / "rows.jsonl")
    run = done(lesson(tiny_model, rows, method={"kind": "lora", "r": 4, "init_lora_weights": "pissa"}, max_steps=2))
    with pytest.raises(StudioError, match="not the base as it is"):
        engine.open(f"{run.id}@2")


def test_a_checkpoint_without_weights_is_refused(trained, engine):
    run = trained("lora")
    for file in (run.checkpoints_dir / "checkpoint-2").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(StudioError, match="no model by itself"):
        engine.open(f"{run.id}@2")


@pytest.mark.parametrize("text", ["one@", "one@last", "one@-1"])
def test_a_checkpoint_needs_a_step(text):
    with pytest.raises(StudioError, match="names no checkpoint"):
        Target.parse(text)


def test_base_is_the_base_below_a_checkpoint_too(workspace, models):
    base, last = Target.parse_all(["base", "one@2"])
    assert base.model.id == str(models["base"])
    assert (last.kind, last.run_id, last.step) == ("checkpoint", "one", 2)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_model_that_nobody_spoke_with_for_a_while_goes_and_is_loaded_again_when_asked(workspace, base):
    clock = Clock()
    engine = Engine(device="cpu", clock=clock)
    engine.open("full")
    clock.now = 50.0
    handle = engine.open(base)
    logits(handle)
    clock.now = 100.0
    assert [entry["targets"] for entry in engine.release_idle(60)] == [["full"]]
    assert [entry["idle"] for entry in engine.loaded()] == [50.0]
    assert engine.open("full")


def test_a_model_that_is_answering_is_never_released(workspace, engine, base):
    handle = engine.open(base)
    handle.weights.model.generation_config.suppress_tokens = sorted(handle.stop_ids)
    pieces = stream(handle, [{"role": "user", "content": "hi"}], Sampling(temperature=0, max_new_tokens=100))
    next(pieces)
    assert engine.release_idle() == []
    pieces.close()
