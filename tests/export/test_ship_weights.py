"""Whole models and adapters: written, read back, and refused where they do not say what the run says."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from class_lessons import class_lesson, rows_of, write
from lessons import done, same, weights

from studio.errors import StudioError
from studio.export import Options, adapter, export, verify
from studio.models.load import load_model
from studio.recipe import ModelSpec
from studio.training.saving import tuned_model


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16"])
def test_a_whole_model_is_compared_with_the_run_and_tells_how_far_it_is(run_of, tmp_path, dtype):
    made = export(run_of(), "merged", tmp_path / "out", Options(dtype=dtype))
    assert made.path == str(tmp_path / "out")
    assert "within" in made.told[0]
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["dtype"] == {"auto": "float32"}.get(dtype, dtype)
    assert load_model(ModelSpec(id=made.path)).num_parameters() > 0


def test_fully_tuned_weights_are_written_in_another_format(run_of, tmp_path):
    run = run_of("full")
    export(run, "merged", tmp_path / "out", Options(dtype="bfloat16"))
    found, own = weights(tmp_path / "out"), weights(run.model_dir)
    assert same(found, {name: tensor.to(torch.bfloat16) for name, tensor in own.items()})


def test_weights_that_say_something_else_are_not_kept(run_of, tmp_path, monkeypatch):
    from studio.export import merged

    monkeypatch.setattr(merged, "folded", lambda model: model.unload())  # the base without the adapter
    run = run_of(init_lora_weights="gaussian")
    monkeypatch.setitem(verify.TOLERANCE, "float32", 1e-6)  # the tiny adapter has learned little
    with pytest.raises(StudioError, match="does not say what the run says"):
        export(run, "merged", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_a_difference_that_is_not_a_number_is_refused():
    nothing = verify.compare([torch.zeros(1, 2)], [torch.full((1, 2), torch.nan)])
    with pytest.raises(StudioError):
        verify.demand(nothing, "bfloat16", "It")


def test_an_adapter_is_copied_and_gives_the_same_logits(run_of, tmp_path):
    run = run_of()
    made = export(run, "adapter", tmp_path / "out")
    assert same(weights(tmp_path / "out"), weights(run.model_dir))
    assert "byte for byte" in made.told[0]


def test_an_adapter_as_one_file_is_whole_once_it_is_unpacked(run_of, tmp_path):
    run = run_of()
    made = export(run, "adapter", tmp_path / "out", Options(zip=True))
    assert made.path == str(tmp_path / "out.zip")
    zipfile.ZipFile(made.path).extractall(tmp_path / "again")
    assert same(weights(tmp_path / "again/out"), weights(run.model_dir))
    tuned_model(run, tmp_path / "again/out")


def test_a_copy_with_another_byte_is_not_shipped(run_of, tmp_path, monkeypatch):
    run = run_of()
    whole = shutil.copytree

    def careless(source, target, **options):
        whole(source, target, **options)
        (Path(target) / "README.md").write_text("other words")

    monkeypatch.setattr(adapter.shutil, "copytree", careless)
    with pytest.raises(StudioError, match="own: README"):
        export(run, "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_that_is_broken_is_not_shipped(run_of, tmp_path):
    run = run_of()
    file = run.model_dir / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(StudioError, match="cannot be loaded"):
        export(run, "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_method_that_cannot_be_merged_says_so(run_of):
    with pytest.raises(StudioError, match="cannot be folded"):
        export(run_of("prompt_tuning"), "merged")


def test_a_dataset_that_is_gone_does_not_stop_a_merge(run_of, tmp_path):
    run = run_of()
    (tmp_path / "rows.jsonl").unlink()
    assert "Checked on" in export(run, "merged", tmp_path / "out").told[0]


def test_each_export_gets_a_place_of_its_own(run_of, home):
    run = run_of("full")
    places = [export(run, "snippet").path for _ in range(2)]
    assert places == [str(home / f"exports/{run.id}/{name}") for name in ("code", "code-2")]


def test_what_is_there_is_not_written_over(run_of, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(StudioError, match="exists already"):
        export(run_of(), "merged", tmp_path / "out")


def test_a_classifier_is_shipped_whole(home, tiny_model, tmp_path):
    run = done(class_lesson(tiny_model, write(tmp_path / "rows.jsonl", rows_of()), max_steps=3))
    made = export(run, "merged", tmp_path / "out")
    assert "within" in made.told[0]
    assert (tmp_path / "out/classes.json").exists()
    with pytest.raises(StudioError, match="puts texts into classes"):
        export(run, "ollama")
