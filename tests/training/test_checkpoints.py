"""The checkpoint that a run goes on from: the newest one that has everything, each file of it whole."""

import shutil

import pytest

from studio.training.checkpoints import last_whole


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of a finished run's checkpoints, of the steps 2, 4 and 6."""
    return shutil.copytree(finished.checkpoints_dir, tmp_path / "checkpoints")


def test_the_newest_checkpoint_is_taken_by_its_number(folder):
    assert last_whole(folder).name == "checkpoint-6"
    (folder / "checkpoint-6").rename(folder / "checkpoint-10")
    assert last_whole(folder).name == "checkpoint-10"


FILES = ["trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.safetensors"]


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_that_lacks_a_file_is_passed_over(folder, name):
    (folder / "checkpoint-6" / name).unlink()
    assert last_whole(folder).name == "checkpoint-4"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_checkpoint_with_a_torn_file_is_passed_over(folder, name, kept):
    file = folder / "checkpoint-6" / name
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])
    assert last_whole(folder).name == "checkpoint-4"


def test_other_folders_are_no_checkpoints(folder):
    (folder / "checkpoint-6").rename(folder / "checkpoint-6.part")
    (folder / "checkpoint-99").write_text("a file")
    assert last_whole(folder).name == "checkpoint-4"


def test_a_run_without_checkpoints_has_none(tmp_path):
    assert last_whole(tmp_path / "nothing") is None
