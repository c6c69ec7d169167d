"""A disk that fills up while a checkpoint is written: said in plain words, and the run goes on when there is room."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from lessons import done, lesson, same, weights, write_rows

from studio.runs import Run
from studio.training import train


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("a small file system may not be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full_in_a_checkpoint_fails_the_run_and_it_goes_on_later(
    small_disk: Path, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path / "roomy"))
    recipe = lesson(tiny_model, write_rows(tmp_path / "rows.jsonl"), save_steps=2, max_steps=6)
    whole = done(recipe)

    monkeypatch.setenv("STUDIO_HOME", str(small_disk / "home"))
    run = Run.create(recipe)
    filler = small_disk / "filler"
    from studio.training.event_callback import EventCallback

    real = EventCallback.on_step_end

    def fill(self, args, state, control, **more):
        if state.global_step == 4:  # the second checkpoint finds no room
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
                while True:
                    file.write(b"x" * 4096)
            with filler.open("r+b") as file:
                file.truncate(filler.stat().st_size - 8192)  # an event still has room
        return real(self, args, state, control, **more)

    with monkeypatch.context() as patch:
        patch.setattr(EventCallback, "on_step_end", fill)
        assert train(run.folder) == "failed"
    event = run.events()[-1]
    assert event["what"] == "The disk is full."
    assert "resume" in event["fix"]
    assert [p.name for p in run.checkpoints_dir.glob("checkpoint-*")] == ["checkpoint-2"]
    seen = run.events()

    filler.unlink()
    run.reopen()
    assert train(run.folder) == "finished"
    assert run.events()[: len(seen)] == seen
    assert same(weights(run.model_dir), weights(whole.model_dir))
