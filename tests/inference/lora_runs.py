"""Helpers and fixtures: a workspace, a tiny base and runs on it (two random LoRA adapters, a fully tuned model)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny import make_tiny_chat_model

from studio.recipe import ModelSpec, Recipe
from studio.recipe.methods import FullMethod, LoraMethod
from studio.runs import Run

IDS = [5, 9, 33, 60, 12, 7]


def spec_of(folder: Path) -> ModelSpec:
    return ModelSpec(id=str(folder), dtype="float32")


def tiny_adapter(base: Path, folder: Path, seed: int, chat_template: str = "auto") -> Path:
    """A LoRA adapter whose effect is plain to see, saved as the worker saves it."""
    import torch

    from studio.models.chat import prepare_chat
    from studio.models.load import load_model, load_tokenizer
    from studio.models.methods import apply_method

    recipe = Recipe(model=spec_of(base), method=LoraMethod(r=4, lora_alpha=8))
    tokenizer, model = load_tokenizer(base), load_model(recipe.model)
    notes = prepare_chat(tokenizer, model, chat_template)
    model = apply_method(model, recipe, notes.new_token_ids)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "trainable_tokens_delta" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def add_run(workspace: Path, id: str, base: Path, model: Path | None, method=None, **recipe) -> Run:
    """A run folder as a finished worker leaves it; without ``model`` it is still queued."""
    folder = workspace / "runs" / id
    folder.mkdir(parents=True)
    Recipe(name=id, model=spec_of(base), method=method or LoraMethod(), **recipe).save(folder / "recipe.yaml")
    if model is not None:
        shutil.copytree(model, folder / "model")
        (folder / "process.json").write_text(json.dumps({"pid": 0}))
        (folder / "events.jsonl").write_text('{"time": 1.0, "kind": "finished", "step": 1}\n')
    return Run(folder)


def logits(handle):
    """(1, 6, vocabulary) of a handle on a fixed input."""
    import torch

    with handle.weights.use_adapter(handle.adapter):
        return handle.weights.model(torch.tensor([IDS])).logits


def reference(base: Path, adapter: Path | None = None):
    """The same of a model that nobody shares, loaded in the plainest way."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from studio.models.efficient_hra_boft import turn_inputs

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    model = model if adapter is None else PeftModel.from_pretrained(model, adapter).eval()
    turn_inputs(model)  # HRA and BOFT as everywhere in the studio: to the last bit, PEFT's own way rounds differently
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    """Folders that are made once: ``base``, adapters ``one`` and ``two`` on it, and ``full``, another whole model."""
    root = tmp_path_factory.mktemp("models")
    base = make_tiny_chat_model(root / "base")
    return {
        "base": base,
        "one": tiny_adapter(base, root / "one", seed=1),
        "two": tiny_adapter(base, root / "two", seed=2),
        "full": make_tiny_chat_model(root / "full", seed=7),
    }


@pytest.fixture
def workspace(models, tmp_path, monkeypatch) -> Path:
    """A workspace with the runs ``one``, ``two`` (LoRA), ``full`` and ``waiting`` (no model yet)."""
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path))
    for id in ("one", "two"):
        add_run(tmp_path, id, models["base"], models[id])
    add_run(tmp_path, "full", models["base"], models["full"], method=FullMethod())
    add_run(tmp_path, "waiting", models["base"], None)
    return tmp_path


@pytest.fixture
def base(models):
    """The base model as a target."""
    from studio.inference import Target

    return Target.base(spec_of(models["base"]))


@pytest.fixture
def engine():
    from studio.inference import Engine

    engine = Engine(device="cpu")
    yield engine
    engine.release()
