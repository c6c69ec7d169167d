"""Methods, starts, optimizers and schedules in whole runs of the worker."""

import json

import pytest
import torch
from lessons import curve, done, kinds, lesson, same, stop_after, weights, write_rows

from studio.errors import StudioError
from studio.evaluation import evaluate
from studio.inference import Engine
from studio.models.load import load_model
from studio.models.methods import apply_method
from studio.recipe import Recipe
from studio.recipe.methods import METHODS
from studio.training import train


@pytest.fixture
def plan(home, tiny_model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl")
    return lambda **settings: lesson(tiny_model, rows, **settings)


@pytest.mark.parametrize("kind", [k for k in METHODS if k not in ("full", "lora")])
def test_every_method_runs_to_its_end_and_learns(plan, kind):
    settings = {"max_steps": 8, "gradient_accumulation_steps": 2, "save_steps": 0}
    recipe = plan(method={"kind": kind}, learning_rate=METHODS[kind].suggested, **settings)
    run = done(recipe)
    losses = [loss for _, loss in curve(run)]
    assert len(losses) == 8
    assert min(losses[4:]) < losses[0]
    started = next(e for e in run.events() if e["kind"] == "started")
    assert 0 < started["trainable_parameters"] < started["total_parameters"]
    assert (run.model_dir / "adapter_config.json").exists() == (kind != "freeze")
    scores = evaluate(run, Engine(device="cpu"))
    assert scores["tuned"]["loss"] == pytest.approx(run.view().eval_loss, abs=1e-4)


RESUMED = {
    "adalora": {"kind": "adalora", "init_r": 4, "target_r": 2},
    "p_tuning": {"kind": "p_tuning", "num_virtual_tokens": 4},
    "prefix_tuning": {"kind": "prefix_tuning", "num_virtual_tokens": 4, "prefix_projection": True},
    "prompt_tuning": {"kind": "prompt_tuning", "num_virtual_tokens": 4},
    "pissa": {"kind": "lora", "r": 4, "init_lora_weights": "pissa"},
    "eva": {"kind": "lora", "r": 4, "init_lora_weights": "eva"},
    "dora": {"kind": "lora", "r": 4, "use_dora": True},
    "bottleneck": {"kind": "bottleneck", "reduction_factor": 4},
    "oft": {"kind": "oft", "oft_block_size": 8},
    "freeze": {"kind": "freeze", "num_trainable_layers": 1},
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_goes_on_to_the_same_weights_with_every_kind_of_state(plan, monkeypatch, name):
    settings = {"method": RESUMED[name], "max_steps": 7}
    whole = done(plan(**settings))
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        run = done(plan(**settings), "stopped")
    run.reopen()
    assert train(run.folder) == "finished"
    assert run.view().curves["loss"] == whole.view().curves["loss"]
    assert same(weights(run.model_dir), weights(whole.model_dir))


@pytest.mark.parametrize("start", ["pissa", "olora", "eva"])
def test_an_adapter_that_starts_elsewhere_is_saved_for_the_base_as_it_is(plan, start):
    """The saved adapter on an untouched base has the validation loss that the run has measured."""
    recipe = plan(method={"kind": "lora", "r": 4, "init_lora_weights": start})
    run = done(recipe)
    assert not (run.folder / "first_adapter").exists()

    scores = evaluate(run, Engine(device="cpu"))
    assert scores["tuned"]["loss"] == pytest.approx(run.view().eval_loss, abs=1e-4)
    assert scores["tuned"]["loss"] < scores["base"]["loss"]


def test_lora_plus_moves_the_second_matrix_faster(plan):
    from studio.training import trainer

    seen = {}

    class Watched(trainer.StudioTrainer):
        def create_optimizer(self, *arguments, **options):
            made = super().create_optimizer(*arguments, **options)
            seen["rates"] = sorted({group["lr"] for group in made.param_groups if group["params"]})
            return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "StudioTrainer", Watched)
        done(plan(method={"kind": "lora", "r": 4, "loraplus_lr_ratio": 16}, learning_rate=0.001, max_steps=2))
    assert seen["rates"] == pytest.approx([0.001, 0.016])


OPTIMIZERS = ["adamw_torch", "adamw_8bit", "paged_adamw_8bit", "adafactor", "lion_32bit", "lion_8bit", "sgd"]


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_every_optimizer_learns(plan, optim):
    rate = {"sgd": 0.5, "lion_32bit": 0.003, "lion_8bit": 0.003}.get(optim, 0.01)
    losses = [loss for _, loss in curve(done(plan(optim=optim, learning_rate=rate, max_steps=8, save_steps=0)))]
    assert min(losses[4:]) < losses[0]


def rates(run) -> list[float]:
    return [e["learning_rate"] for e in run.events() if e["kind"] == "step"]


def test_the_rate_rises_stays_and_falls_with_wsd(plan):
    run = done(plan(lr_scheduler_type="warmup_stable_decay", warmup_steps=2, decay_share=0.4, max_steps=10))
    seen = rates(run)
    assert seen[0] < seen[1] < seen[2]
    assert seen[2] == seen[3] == seen[4] == seen[5] == pytest.approx(0.01)
    assert seen[7] > seen[8] > seen[9]


@pytest.mark.parametrize("schedule", ["linear", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"])
def test_every_schedule_runs(plan, schedule):
    seen = rates(done(plan(lr_scheduler_type=schedule, max_steps=4)))
    assert len(seen) == 4
    assert (seen[-1] == seen[1]) == schedule.startswith("constant")


def test_noise_and_smoothing_change_the_training_loss_and_not_the_way_it_is_measured(plan):
    plain, noisy, smooth = (
        done(plan(**settings, max_steps=2, eval_steps=0, learning_rate=1e-12))
        for settings in ({}, {"neftune_noise_alpha": 50}, {"label_smoothing_factor": 0.3})
    )
    first = [curve(run)[0][1] for run in (plain, noisy, smooth)]
    assert len(set(first)) == 3
    measured = [run.view().eval_loss for run in (plain, noisy, smooth)]
    assert measured[1] == pytest.approx(measured[0], abs=1e-5)
    assert measured[2] == pytest.approx(measured[0], abs=1e-5)


def test_the_best_weights_are_kept(plan, tmp_path):
    """Held-out rows that contradict the others: the better those are learned, the worse is each measurement."""
    rows = [{"prompt": f"What colour is number {n} today?", "completion": "Paris is sunny."} for n in range(6)]
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = plan(learning_rate=0.05, warmup_steps=0, eval_steps=4, save_steps=0, keep_best=True, max_steps=24)
    recipe.data.holdout, recipe.data.holdout_source = 0, str(wrong)
    run = done(recipe)
    measured = dict(curve(run, "eval"))
    best = min(measured, key=measured.get)
    assert best < 24
    finished = run.events()[-1]
    assert finished["best_step"] == best
    assert finished["eval_loss"] == measured[best]

    assert evaluate(run, Engine(device="cpu"))["tuned"]["loss"] == pytest.approx(measured[best], abs=1e-4)


def test_a_run_that_gets_no_better_stops_early_and_says_so(plan):
    run = done(plan(learning_rate=0.9, eval_steps=1, early_stopping_patience=2, max_steps=50))
    assert curve(run)[-1][0] < 50
    (warning,) = [e for e in run.events() if e["kind"] == "warning" and "Stopped early" in e["what"]]
    assert "train.keep_best" in warning["fix"]
    assert kinds(run)[-1] == "finished"


def test_an_adapter_is_trained_further_in_another_run(plan):
    first = done(plan())
    recipe = plan()
    recipe.model.adapter = first.id
    second = done(recipe)
    assert curve(second)[0][1] < curve(first)[0][1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is said where there is no GPU")
def test_loftq_says_that_it_needs_a_gpu(tmp_path):
    from tiny import make_tiny_chat_model

    folder = make_tiny_chat_model(tmp_path / "wide", hidden_size=64)
    method = {"kind": "lora", "init_lora_weights": "loftq"}
    recipe = Recipe.parse({"model": {"id": str(folder), "quantization": "nf4"}, "method": method})
    with pytest.raises(StudioError, match="needs a CUDA GPU"):
        apply_method(load_model(recipe.model, dtype="float32"), recipe, folder=folder)
