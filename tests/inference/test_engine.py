"""What is in memory, what is shared, and what a target means."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest
import torch
from lora_runs import add_run, logits, reference, spec_of, tiny_adapter
from tiny import make_tiny_chat_model

from studio.errors import StudioError
from studio.inference import Engine, Target
from studio.inference.generate import prompt_ids
from studio.recipe import DataSpec, ModelSpec, Recipe
from studio.runs import Run


def test_importing_the_package_loads_neither_torch_nor_transformers():
    heavy = ("torch", "transformers", "datasets", "peft")
    code = f"import sys, studio.inference, studio.evaluation; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert result.stdout.strip() == "[]"


def test_a_base_and_its_lora_runs_share_one_copy_of_the_weights(workspace, engine, base):
    handles = [engine.open(target) for target in (base, Target.run("one"), Target.run("two"))]
    assert len({id(handle.weights) for handle in handles}) == 1
    assert [entry["targets"] for entry in engine.loaded()] == [[base.name, "one", "two"]]


def test_a_base_has_the_logits_of_the_untouched_model_bit_by_bit_with_adapters_on_it(workspace, models, engine, base):
    handle = engine.open(base)
    engine.open("one")
    engine.open("two")
    assert torch.equal(logits(handle), reference(models["base"]))


def test_each_run_has_the_logits_of_its_own_adapter_bit_by_bit(workspace, models, engine):
    for id in ("one", "two", "one"):
        assert torch.equal(logits(engine.open(id)), reference(models["base"], models[id]))


def test_the_adapters_do_have_an_effect(workspace, engine, base):
    tokens = [logits(engine.open(target)).argmax(-1).tolist() for target in (base, "one", "two")]
    assert tokens[0] != tokens[1] != tokens[2] != tokens[0]


def test_data_12_base_and_tuned_are_asked_with_the_same_ids_whatever_typed_tokens_become(workspace, models, engine):
    add_run(workspace, "text", models["base"], models["one"], data=DataSpec(special_tokens_in_text="text"))
    config = Run.open("text").model_dir / "tokenizer_config.json"  # as training saves it
    config.write_text(json.dumps({**json.loads(config.read_text()), "special_tokens_in_text": "text"}))
    of_base, of_run = Target.pair("text")
    base, tuned, other = engine.open(of_base), engine.open(of_run), engine.open("one")

    def ids(handle):
        return prompt_ids(handle, [{"role": "user", "content": f"say {handle.tokenizer.eos_token} now"}])

    assert base.weights is tuned.weights is other.weights
    assert ids(base) == ids(tuned) != ids(other)


def test_a_fully_tuned_run_has_weights_of_its_own(workspace, models, engine, base):
    assert engine.open("full").weights is not engine.open(base).weights
    assert torch.equal(logits(engine.open("full")), reference(models["full"]))


def test_adapters_with_different_layers_share_a_base(workspace, models, engine, base, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(models["base"], dtype=torch.float32)
    model = get_peft_model(
        model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    )
    model.save_pretrained(tmp_path / "small")
    AutoTokenizer.from_pretrained(models["base"]).save_pretrained(tmp_path / "small")
    add_run(workspace, "small", models["base"], tmp_path / "small")
    assert engine.open("one").weights is engine.open("small").weights
    assert torch.equal(logits(engine.open("small")), reference(models["base"], tmp_path / "small"))
    assert torch.equal(logits(engine.open("one")), reference(models["base"], models["one"]))
    assert torch.equal(logits(engine.open(base)), reference(models["base"]))


@pytest.mark.parametrize("tied", [True, False])
def test_a_base_that_got_new_tokens_is_left_untouched_by_a_run_that_trained_them(tmp_path, monkeypatch, engine, tied):
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path))
    base = make_tiny_chat_model(tmp_path / "plain", chat_template=None, tie_word_embeddings=tied)
    handle = engine.open(Target.base(spec_of(base)))
    before = logits(handle)
    add_run(tmp_path, "chat", base, tiny_adapter(base, tmp_path / "adapter", seed=3))
    tuned = engine.open("chat")
    assert tuned.weights is handle.weights
    new = handle.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert not torch.equal(logits(tuned)[..., new], before[..., new])
    assert torch.equal(logits(handle), before)


def test_other_number_formats_and_templates_are_not_shared(workspace, models, engine, base):
    half = Target.base(ModelSpec(id=str(models["base"]), dtype="bfloat16"))
    chatml = Target.base(spec_of(models["base"]), chat_template="chatml")
    assert engine.open(half).weights.model.dtype == torch.bfloat16
    assert engine.open(base).weights is not engine.open(chatml).weights


def test_the_model_unused_for_longest_goes_when_there_are_too_many(workspace, models, base):
    engine = Engine(device="cpu", max_models=2)
    chatml = Target.base(spec_of(models["base"]), chat_template="chatml", name="chatml")
    for target in (base, "full", base, chatml):
        engine.open(target)
    assert [entry["targets"] for entry in engine.loaded()] == [[base.name], ["chatml"]]


def test_the_memory_limit_holds_but_one_model_always_fits(workspace, base):
    engine = Engine(device="cpu", max_models=9, max_bytes=1)
    engine.open("full")
    engine.open(base)
    assert [entry["targets"] for entry in engine.loaded()] == [[base.name]]


def test_the_adapter_unused_for_longest_goes_when_there_are_too_many(workspace, models, base):
    engine = Engine(device="cpu", max_adapters=1)
    first = engine.open("one")
    second = engine.open("two")
    assert torch.equal(logits(second), reference(models["base"], models["two"]))
    assert torch.equal(logits(engine.open(base)), reference(models["base"]))
    with pytest.raises(StudioError, match="unloaded to make room"):
        logits(first)
    assert torch.equal(logits(engine.open("one")), reference(models["base"], models["one"]))


def test_release_frees_everything_and_its_threads(workspace, base):
    before = set(threading.enumerate())
    engine = Engine(device="cpu")
    engine.open(base)
    engine.open("one")
    forward = [t for t in threading.enumerate() if t not in before and t.name.startswith("forward")]
    assert forward
    engine.release()
    assert engine.loaded() == []
    for thread in forward:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in forward)


def test_a_run_that_was_trained_further_is_loaded_anew(workspace, models, engine):
    before = logits(engine.open("one"))
    weights = workspace / "runs" / "one" / "model" / "adapter_model.safetensors"
    weights.write_bytes((models["two"] / "adapter_model.safetensors").read_bytes())
    assert not torch.equal(logits(engine.open("one")), before)


def test_threads_that_open_the_same_run_at_once_load_it_once(workspace, engine):
    handles = []
    threads = [threading.Thread(target=lambda: handles.append(engine.open("one"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(handle) for handle in handles}) == 1


def test_a_run_without_a_model_is_refused_with_what_to_do(workspace, engine):
    with pytest.raises(StudioError, match="no tuned model yet") as caught:
        engine.open("waiting")
    assert "queued" in caught.value.what and "Wait" in caught.value.fix


def test_a_damaged_adapter_is_refused_and_the_base_stays_usable(workspace, models, engine, base):
    engine.open(base)
    (workspace / "runs" / "one" / "model" / "adapter_model.safetensors").write_bytes(b"junk")
    with pytest.raises(StudioError, match="cannot be loaded"):
        engine.open("one")
    assert torch.equal(logits(engine.open(base)), reference(models["base"]))
    assert torch.equal(logits(engine.open("two")), reference(models["base"], models["two"]))


def test_targets_are_read_from_what_is_typed(workspace, models):
    assert Target.parse("base").model == Recipe().model
    assert Target.parse("base:owner/name").model.id == "owner/name"
    assert Target.parse("one") == Target.run("one")
    base, run = Target.parse_all(["base", "one"])
    assert base.name == "base" and base.model.id == str(models["base"]) and run.run_id == "one"
    with pytest.raises(StudioError):
        Target.parse(" ")
