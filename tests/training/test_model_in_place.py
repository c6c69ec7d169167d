"""The new model of a continued run takes the place of the earlier one, whatever a killed worker has left."""

import pytest

from studio.recipe import Recipe
from studio.runs import Run
from studio.training.saving import put_back_model, put_model_in_place

pytestmark = pytest.mark.usefixtures("home")


def folder_of(run: Run, name: str):
    folder = run.folder / name
    folder.mkdir()
    (folder / "config.json").write_text(name)
    return folder


def test_a_model_that_an_earlier_worker_has_left_aside_is_not_in_the_way():
    run = Run.create(Recipe())
    for name in ("model", "model.old", "model.part"):
        folder_of(run, name)
    put_model_in_place(run, run.folder / "model.part")
    assert (run.model_dir / "config.json").read_text() == "model.part"
    assert not (run.folder / "model.old").exists() and not (run.folder / "model.part").exists()


def test_a_run_whose_worker_was_killed_between_two_models_gets_the_earlier_one_back():
    run = Run.create(Recipe())
    folder_of(run, "model.old")
    put_back_model(run)
    assert run.has_model and not (run.folder / "model.old").exists()


def test_a_model_that_is_there_is_not_replaced_by_an_earlier_one():
    run = Run.create(Recipe())
    folder_of(run, "model"), folder_of(run, "model.old")
    put_back_model(run)
    assert (run.model_dir / "config.json").read_text() == "model"
