"""What lacks weights (a model, an adapter, a checkpoint) fails before it trains; so does whoever uses its model."""

import shutil

import pytest
import torch
from lessons import done, kinds, lesson, stop_after, write_rows
from safetensors.torch import load_file, save_file

from studio.errors import StudioError
from studio.inference import Engine, Target
from studio.training import train
from studio.training.saving import tuned_model

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "rows.jsonl")


def drop(file, part):
    """Take the tensors whose names have ``part`` out of a safetensors file."""
    tensors = load_file(file)
    kept = {name: tensor for name, tensor in tensors.items() if part not in name}
    assert len(kept) < len(tensors)
    save_file(kept, file, {"format": "pt"})


def end_of(run):
    return run.events()[-1]


def test_security_07_a_model_without_tensors_fails_before_training(tiny_model, rows, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    save_file({}, folder / "model.safetensors", {"format": "pt"})
    run = done(lesson(folder, rows), "failed")
    assert end_of(run)["code"] == "weights_missing"
    assert not {"started", "step"} & set(kinds(run))


def test_security_07_unused_weights_are_a_warning_of_the_run(tiny_model, rows, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    file = folder / "model.safetensors"
    save_file(load_file(file) | {"more.weight": torch.zeros(2)}, file, {"format": "pt"})
    run = done(lesson(folder, rows, max_steps=1))
    (told,) = [e for e in run.events() if e.get("rule") == "unexpected_weights"]
    assert "more.weight" in told["what"]


METHODS = {
    "lora": ({"kind": "lora", "r": 4, "lora_alpha": 8}, "adapter_model.safetensors", "layers.1.self_attn.q_proj"),
    "full": ({"kind": "full"}, "model.safetensors", "layers.1.self_attn.q_proj"),
}


@pytest.mark.parametrize("method", METHODS)
def test_security_07_a_checkpoint_that_lacks_weights_is_not_resumed_from(tiny_model, rows, monkeypatch, method):
    settings, file, part = METHODS[method]
    stop_after(monkeypatch, 2, "pause")
    run = done(lesson(tiny_model, rows, method=settings), "paused")
    drop(run.checkpoints_dir / "checkpoint-2" / file, part)
    run.reopen()
    assert train(run.folder) == "failed"
    assert end_of(run)["code"] == "weights_missing"
    assert [e["step"] for e in run.events() if e["kind"] == "step"] == [1, 2]


def test_security_07_a_checkpoint_of_pruned_directions_that_lacks_weights_is_not_resumed_from(
    tiny_model, rows, monkeypatch
):
    stop_after(monkeypatch, 2, "pause")
    run = done(lesson(tiny_model, rows, method={"kind": "prompt_tuning"}), "paused")
    state = torch.load(run.checkpoints_dir / "checkpoint-2" / "trained.pt")
    torch.save(state | {"parameters": {}}, run.checkpoints_dir / "checkpoint-2" / "trained.pt")
    run.reopen()
    assert train(run.folder) == "failed"
    assert end_of(run)["code"] == "weights_missing"


def test_security_07_an_adapter_that_lacks_weights_is_not_compared_exported_or_continued(tiny_model, rows):
    run = done(lesson(tiny_model, rows, max_steps=1))
    whole = shutil.copytree(run.folder, run.folder.with_name("whole"))
    drop(run.model_dir / "adapter_model.safetensors", "layers.1.self_attn.q_proj")
    with pytest.raises(StudioError) as caught:
        Engine().open(Target.run(run.id))
    assert caught.value.code == "weights_missing"
    with pytest.raises(StudioError) as caught:
        tuned_model(run)
    assert caught.value.code == "weights_missing"
    recipe = lesson(tiny_model, rows, max_steps=1)
    recipe.model.adapter = str(run.model_dir)
    assert end_of(done(recipe, "failed"))["code"] == "weights_missing"
    Engine().open(Target.run(whole.name))
