"""What a run takes of the disk, beside what was announced before it started."""

import json
import shutil

import pytest
from lessons import done, lesson, write_rows

from studio.models.memory_estimate import estimate
from studio.models.persistent_memory import SMALL_FILES, TOKEN_BYTES
from studio.recipe.methods import METHODS
from studio.runs import Run
from studio.training import checkpoints, train

SETTINGS = {
    **{kind: {"kind": kind} for kind in METHODS},
    "adalora": {"kind": "adalora", "init_r": 8, "target_r": 4},
    "dora": {"kind": "lora", "use_dora": True},
    "pissa": {"kind": "lora", "init_lora_weights": "pissa"},
    "prefix_projection": {"kind": "prefix_tuning", "prefix_projection": True},
    "saved": {"kind": "lora", "modules_to_save": ["lm_head"]},
}


@pytest.fixture
def plan(home, tiny_model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl")
    return lambda **settings: lesson(tiny_model, rows, **settings)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_never_holds_more_than_was_announced(plan, tiny_model, monkeypatch, name):
    sizes, put_in_place = [], checkpoints.put_in_place

    def measured(folder, checkpoint):
        sizes.append(sum(path.stat().st_size for path in folder.parent.rglob("*") if path.is_file()))
        put_in_place(folder, checkpoint)

    monkeypatch.setattr(checkpoints, "put_in_place", measured)
    recipe = plan(method=SETTINGS[name], max_steps=5, save_steps=1, save_total_limit=2, keep_best=True)
    run = done(recipe)
    sizes.append(sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file()))

    config = json.loads((tiny_model / "config.json").read_text(encoding="utf-8"))
    announced = estimate(recipe, config).disk_bytes
    (started,) = (event for event in run.events() if event["kind"] == "started")
    assert max(sizes) <= announced["total"] <= started["estimated_disk_bytes"]

    newest = max(run.checkpoints_dir.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
    files = [path for name in ("*.safetensors", "optimizer.pt", "trained.pt") for path in newest.glob(name)]
    numbers = sum(path.stat().st_size for path in files)
    small = SMALL_FILES + TOKEN_BYTES * config["vocab_size"]
    # at most 60 kB of headers; AdaLoRA's pruned directions are counted and not written
    assert 0.85 * numbers - 60_000 <= announced["checkpoint"] - small <= 1.4 * numbers


def test_a_disk_that_is_too_small_is_told_before_the_first_step(plan, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000))
    run = Run.create(plan(max_steps=1))
    assert train(run.folder) == "finished"
    kinds = [event["kind"] for event in run.events()]
    (at,) = (n for n, e in enumerate(run.events()) if e["kind"] == "warning" and "of the disk" in e["what"])
    assert at < kinds.index("step")
