"""A run that has ended goes on for more epochs or steps, with a learning rate that was told before."""

import shutil

import pytest
import torch
from lessons import curve, done, lesson, same, stop_after, weights, write_rows

from studio.errors import StudioError
from studio.recipe import TrainSpec
from studio.runs import EventLog, Run
from studio.runs.index import RunIndex
from studio.thread_waiting import LoadWatch
from studio.training import train
from studio.training.extend import extend_run, plan_extension
from studio.training.resume import plan_resume
from studio.training.schedule import rate_at

pytestmark = pytest.mark.usefixtures("home")
EPOCHS = {"max_steps": -1, "num_train_epochs": 2, "save_steps": 0}


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "rows.jsonl")


def extended(run: Run, **wanted) -> str:
    """Continue a run as the command line does, with the worker in this process."""
    extend_run(run, plan_extension(run, **wanted))
    return train(run.folder)


def rates(run: Run) -> dict[int, float]:
    return {e["step"]: e["learning_rate"] for e in run.events() if e["kind"] == "step"}


@pytest.mark.parametrize("grouped", [True, False])
def test_results_12_one_epoch_more_gives_the_weights_of_a_run_that_was_planned_so(tiny_model, rows, grouped):
    settings = EPOCHS | {"lr_scheduler_type": "constant", "group_by_length": grouped}
    longer = done(lesson(tiny_model, rows, **settings | {"num_train_epochs": 3}))
    run = done(lesson(tiny_model, rows, **settings))
    first = weights(run.model_dir)
    assert extended(run, epochs=1) == "finished"
    assert curve(run) == curve(longer)
    assert same(weights(run.model_dir), weights(longer.model_dir))
    assert not same(weights(run.model_dir), first)
    assert run.recipe.train.num_train_epochs == 3
    assert run.summary()["step"] == run.summary()["max_steps"] == curve(longer)[-1][0]


def test_results_12_a_schedule_that_is_stretched_is_that_of_a_run_that_was_planned_so(tiny_model, rows):
    longer = done(lesson(tiny_model, rows, max_steps=9))
    run = done(lesson(tiny_model, rows, max_steps=6))
    plan = plan_extension(run, steps=3, schedule="extend")
    assert extended(run, steps=3, schedule="extend") == "finished"
    assert [rates(run)[step] for step in (7, 8, 9)] == [rates(longer)[step] for step in (7, 8, 9)]
    assert f"{rates(run)[7]:.3g}" in plan.told()


@pytest.mark.parametrize("kind", ["cosine", "linear", "warmup_stable_decay"])
def test_results_12_a_finished_run_restarts_its_schedule_and_says_so_before(tiny_model, rows, kind):
    run = done(lesson(tiny_model, rows, max_steps=4, lr_scheduler_type=kind))
    plan = plan_extension(run, steps=4)
    assert (plan.step, plan.total, plan.recipe.resolved.schedule_start) == (4, 8, 4)
    assert "0.01" in plan.told() and "restart" in plan.told()
    assert extended(run, steps=4) == "finished"
    found = rates(run)
    assert [found[step] for step in range(5, 9)] == pytest.approx([found[step] for step in range(1, 5)])
    assert [step for step, _ in curve(run)] == list(range(1, 9))


def test_results_12_a_continuation_may_have_a_learning_rate_of_its_own(tiny_model, rows):
    run = done(lesson(tiny_model, rows, max_steps=3, lr_scheduler_type="constant"))
    assert extended(run, steps=2, learning_rate=0.001) == "finished"
    assert list(rates(run).values()) == [0.01, 0.01, 0.01, 0.001, 0.001]


def test_results_12_the_old_model_stays_until_the_new_one_is_whole(tiny_model, rows, monkeypatch):
    run = done(lesson(tiny_model, rows, max_steps=3))
    first = weights(run.model_dir)
    with monkeypatch.context() as patch:
        stop_after(patch, 4, "pause")
        assert extended(run, steps=3) == "paused"
    assert same(weights(run.model_dir), first)
    assert plan_resume(run).asked == []
    run.reopen()
    assert train(run.folder) == "finished"
    assert [step for step, _ in curve(run)] == [1, 2, 3, 4, 5, 6]
    assert not same(weights(run.model_dir), first)


def test_results_12_a_continuation_that_was_killed_at_once_goes_on_with_its_schedule(tiny_model, rows):
    whole = done(lesson(tiny_model, rows, max_steps=3))
    assert extended(whole, steps=3) == "finished"
    run = done(lesson(tiny_model, rows, max_steps=3))
    extend_run(run, plan_extension(run, steps=3))
    assert run.claim()
    run.folder.joinpath("process.json").write_text('{"pid": 4194305, "start": 1.0}')
    assert run.status == "interrupted"
    assert plan_resume(run).asked == []
    run.reopen()
    assert train(run.folder) == "finished"
    assert rates(run) == rates(whole)
    assert same(weights(run.model_dir), weights(whole.model_dir))


def test_results_12_a_run_that_was_stopped_early_goes_on_for_more_steps_on_its_own_schedule(
    tiny_model, rows, monkeypatch
):
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        run = done(lesson(tiny_model, rows, max_steps=6), "stopped")
    plan = plan_extension(run, steps=5)
    assert (plan.step, plan.total, plan.recipe.resolved.schedule_start) == (3, 8, 0)
    assert extended(run, steps=5) == "finished"
    assert curve(run)[-1][0] == 8


def test_results_12_epochs_are_counted_from_where_the_run_stands(tiny_model, rows, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        run = done(lesson(tiny_model, rows, **EPOCHS), "stopped")
    per_epoch = 5  # nine rows in batches of two
    assert plan_extension(run, epochs=1).total == 3 + per_epoch
    assert plan_extension(run, epochs=0.4).total == 3 + 2


def test_results_12_without_its_checkpoints_a_run_is_not_continued_and_says_what_to_do(tiny_model, rows):
    run = done(lesson(tiny_model, rows, max_steps=2))
    shutil.rmtree(run.checkpoints_dir)
    with pytest.raises(StudioError) as caught:
        plan_extension(run, steps=2)
    assert caught.value.code == "no_checkpoint"
    assert f"model.adapter={run.id}" in caught.value.fix
    assert run.status == "finished"


def test_results_12_a_method_that_plans_the_whole_run_is_not_made_longer(tiny_model, rows):
    run = done(lesson(tiny_model, rows, method={"kind": "adalora"}, max_steps=12))
    with pytest.raises(StudioError) as caught:
        plan_extension(run, steps=2)
    assert caught.value.code == "not_extendable"


@pytest.mark.parametrize("wanted", [{}, {"steps": 0}, {"epochs": -1}, {"steps": 1, "epochs": 1}])
def test_results_12_how_much_longer_must_be_said_once(tiny_model, rows, wanted):
    run = done(lesson(tiny_model, rows, max_steps=1))
    with pytest.raises(StudioError):
        plan_extension(run, **wanted)


def test_results_12_a_running_run_is_not_continued(tiny_model, rows):
    run = Run.create(lesson(tiny_model, rows))
    with pytest.raises(StudioError) as caught:
        plan_extension(run, steps=1)
    assert caught.value.code == "not_extendable"


def test_results_12_of_two_that_continue_a_run_the_second_is_refused(tiny_model, rows):
    run = done(lesson(tiny_model, rows, max_steps=2))
    plan = plan_extension(run, steps=2)
    extend_run(run, plan)
    with pytest.raises(StudioError) as caught:
        extend_run(run, plan)
    assert caught.value.code == "not_resumable"
    assert RunIndex().statuses() == {run.id: "queued"}


def test_results_12_whole_models_are_continued_too(tiny_model, rows):
    settings = {"method": {"kind": "full"}, "lr_scheduler_type": "constant", "learning_rate": 1e-3}
    longer = done(lesson(tiny_model, rows, max_steps=4, **settings))
    run = done(lesson(tiny_model, rows, max_steps=2, **settings))
    assert extended(run, steps=2) == "finished"
    assert same(weights(run.model_dir), weights(longer.model_dir))


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("kind", [*TrainSpec.model_fields["lr_scheduler_type"].annotation.__args__])
def test_results_12_the_rate_that_is_told_is_the_one_that_transformers_uses(kind, warmup):
    from transformers import get_scheduler

    spec = TrainSpec(lr_scheduler_type=kind, warmup_steps=warmup, learning_rate=0.01, decay_share=0.3)
    total = 20
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=spec.learning_rate)
    more = {"num_decay_steps": int(total * 0.3)} if kind == "warmup_stable_decay" else None
    scheduler = get_scheduler(kind, optimizer, warmup, total, more)
    for step in range(total):
        assert rate_at(spec, step, total) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-9), step
        assert rate_at(spec, step + 7, total + 7, start=7) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        scheduler.step()


def test_results_12_a_continued_run_without_checkpoints_begins_its_schedule_at_its_first_step(tiny_model, rows):
    run = done(lesson(tiny_model, rows, max_steps=2, warmup_steps=0))
    extend_run(run, plan_extension(run, steps=2))
    assert run.recipe.resolved.schedule_start == 2
    shutil.rmtree(run.checkpoints_dir)
    assert train(run.folder) == "finished"
    newest = rates(run)
    assert list(newest) == [1, 2, 3, 4]
    assert newest[1] == pytest.approx(0.01)
    assert newest[2] < newest[1]
    assert run.recipe.resolved.schedule_start == 0


def test_results_12_a_failed_continuation_is_continued_again_and_a_diverged_one_with_another_rate(tiny_model, rows):
    run = done(lesson(tiny_model, rows, max_steps=2))
    log = EventLog(run.events_path)
    log.write("failed", what="It went wrong.", fix="")
    assert plan_extension(run, steps=1).total == 3
    log.write("failed", what="It diverged.", fix="", reason="diverged")
    log.close()
    for rate in (None, 0.01):
        with pytest.raises(StudioError) as caught:
            plan_extension(run, steps=1, learning_rate=rate)
        assert caught.value.code == "rate_needed"
    assert extended(run, steps=1, learning_rate=0.001) == "finished"
    assert curve(run)[-1][0] == 3


class Watch(LoadWatch):
    """Notes how many threads torch has when the watch starts."""

    def start(self):
        Watch.threads = torch.get_num_threads()


def test_the_load_watch_starts_after_the_threads_are_settled(tiny_model, rows, monkeypatch):
    from studio.models import processor
    from studio.training import worker

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setattr(processor, "allowed_cores", lambda: 1)
        monkeypatch.setattr(worker, "LoadWatch", Watch)
        done(lesson(tiny_model, rows, max_steps=1))
        assert Watch.threads == 1
    finally:
        torch.set_num_threads(before)
