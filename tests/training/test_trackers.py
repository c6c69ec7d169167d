"""Metrics that are sent elsewhere too: refused where the tracker is missing, sent where it is there."""

import importlib.util
import sys
import types

import pytest
from lessons import curve, done, lesson, write_rows

from studio.recipe import Recipe

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.parametrize("name", ["trackio", "tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_is_refused_with_its_command(name, monkeypatch):
    monkeypatch.setattr("studio.recipe.compatibility.importlib.util.find_spec", lambda package: None)
    (problem,) = Recipe.parse({"train": {"report_to": name}}).problems()
    assert problem.field == "train.report_to"
    assert f"pip install {name}" in problem.fix


def test_a_tracker_that_is_installed_gets_the_curve_and_the_validation(tiny_model, tmp_path, monkeypatch):
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    sent = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **more):
            sent.append((args.run_name, dict(logs)))

    real = importlib.util.find_spec
    monkeypatch.setattr(
        "studio.recipe.compatibility.importlib.util.find_spec",
        lambda name: object() if name == "trackio" else real(name),
    )
    monkeypatch.setitem(sys.modules, "trackio", types.ModuleType("trackio"))
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "trackio", Tracker)
    recipe = lesson(tiny_model, write_rows(tmp_path / "rows.jsonl"), report_to="trackio", max_steps=3)
    run = done(recipe)
    assert {name for name, _ in sent} == {run.id}
    assert [logs["loss"] for _, logs in sent if "loss" in logs] == [loss for _, loss in curve(run)]
    assert [logs["eval_loss"] for _, logs in sent if "eval_loss" in logs]
