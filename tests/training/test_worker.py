"""The worker: one recipe in, one run folder out, and the same run whatever happened on the way."""

import pytest
import torch
from lessons import curve, done, kinds, lesson, same, stop_after, weights, write_rows
from tiny import make_tiny_chat_model

from studio.runs import EventLog, Run
from studio.training import train
from studio.training.event_callback import EventCallback

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "rows.jsonl")


@pytest.fixture
def plan(tiny_model, rows):
    """Makes recipes over the tiny model and the rows."""
    return lambda **settings: lesson(tiny_model, rows, **settings)


class PowerCut(BaseException):
    """Nothing that the worker knows."""


def crash_after(monkeypatch, step: int) -> None:
    """Let the worker fall over after this step, as a power cut would, without an end."""

    def on_step_begin(self, args, state, control, **more):
        if state.global_step == step:
            raise PowerCut

    monkeypatch.setattr(EventCallback, "on_step_begin", on_step_begin, raising=False)


def test_six_steps_lower_the_training_loss_and_the_validation_loss(finished):
    losses, validation = curve(finished), curve(finished, "eval")
    assert losses[-1][1] < losses[0][1]
    assert validation[-1][1] < validation[0][1]


def test_a_run_writes_its_life_in_order(finished):
    assert kinds(finished) == [
        *("started", "step", "step", "checkpoint", "step", "eval", "step", "checkpoint"),
        *("step", "step", "eval", "checkpoint", "finished"),
    ]


def test_the_start_of_a_run_says_what_it_will_do(finished):
    started = next(e for e in finished.events() if e["kind"] == "started")
    assert started["max_steps"] == 6
    assert started["rows"] + started["held_out_rows"] == 12
    assert started["trainable_parameters"] < started["total_parameters"]
    assert started["device"] == "CPU"
    assert started["resumed_from"] is None


def test_the_start_of_a_run_says_what_was_chosen_and_why(finished):
    started = next(e for e in finished.events() if e["kind"] == "started")
    found = {one["what"]: one for one in started["choices"]}
    assert set(found) >= {"dtype", "attention", "gradient checkpointing", "loader processes"}
    assert found["loader processes"]["chosen"] == "0"
    assert all(one["why"] and one["by"] in ("recipe", "studio") for one in found.values())
    assert finished.recipe.resolved.attention == found["attention"]["chosen"]


def test_a_run_that_would_not_fit_turns_checkpointing_on_and_its_recipe_stays_as_it_was(plan, monkeypatch):
    from studio.training import choices, trainer

    whole = choices.choose_checkpointing
    tight = lambda chosen, recipe, memory, _: whole(chosen, recipe, {**memory, "available_bytes": 1}, lambda _: 1)  # noqa: E731
    seen = []
    build = trainer.build_trainer
    monkeypatch.setattr(choices, "choose_checkpointing", tight)
    monkeypatch.setattr(trainer, "build_trainer", lambda **known: seen.append(build(**known)) or seen[-1], raising=True)
    run = done(plan())
    assert kinds(run)[-1] == "finished"
    assert seen[0].args.gradient_checkpointing
    assert not run.recipe.train.gradient_checkpointing


def test_a_second_run_on_the_same_data_encodes_nothing(plan, monkeypatch):
    from studio.data import encode_cache

    first = done(plan())
    monkeypatch.setattr(encode_cache, "encode_rows", None)
    again = done(plan())
    assert curve(again) == curve(first)


def test_every_step_has_all_its_numbers(finished):
    steps = [e for e in finished.events() if e["kind"] == "step"]
    assert [e["step"] for e in steps] == [1, 2, 3, 4, 5, 6]
    names = ("loss", "learning_rate", "grad_norm", "epoch", "tokens", "tokens_per_second", "memory_bytes")
    assert all(isinstance(e[name], (int, float)) for e in steps for name in names)
    assert [e["tokens"] for e in steps] == sorted(e["tokens"] for e in steps)


def test_a_run_records_what_it_really_used(finished):
    resolved = finished.recipe.resolved
    assert len(resolved.data_fingerprint) == 64
    assert resolved.dtype == "float32"
    assert resolved.versions["torch"] == torch.__version__


def test_a_runs_checkpoints_are_where_its_events_say(finished):
    for event in finished.events():
        if event["kind"] == "checkpoint":
            assert (finished.folder / event["path"] / "trainer_state.json").is_file()


def test_the_saved_adapter_gives_the_logits_of_the_model_that_was_trained(plan, tiny_model, monkeypatch):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from studio.training import trainer

    kept = []
    real = trainer.build_trainer
    monkeypatch.setattr(trainer, "build_trainer", lambda **options: kept.append(real(**options)) or kept[-1])
    run = done(plan(max_steps=2))
    trained = kept[0].model.eval()
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    ids = AutoTokenizer.from_pretrained(run.model_dir)("What colour is it?", return_tensors="pt").input_ids
    with torch.no_grad():
        before = base(ids).logits.clone()
        reloaded = PeftModel.from_pretrained(base, run.model_dir).eval()(ids).logits
        assert torch.equal(reloaded, trained(ids).logits)
    assert not torch.equal(reloaded, before)


def test_the_saved_model_has_its_tokenizer_its_template_and_a_card(finished, tiny_tokenizer):
    from transformers import AutoTokenizer

    saved = AutoTokenizer.from_pretrained(finished.model_dir)
    assert saved.chat_template == tiny_tokenizer.chat_template
    card = (finished.model_dir / "README.md").read_text()
    assert "validation loss" in card
    assert finished.recipe.resolved.data_fingerprint in card


def test_the_same_recipe_gives_the_same_losses_and_weights(finished, plan):
    again = done(plan())
    assert curve(again) == curve(finished)
    assert same(weights(again.model_dir), weights(finished.model_dir))


def test_another_seed_gives_other_losses(finished, plan):
    assert curve(done(plan(seed=8))) != curve(finished)


def test_measuring_the_validation_loss_does_not_change_the_training(finished, plan):
    assert curve(done(plan(eval_steps=1))) == curve(finished)


def test_what_was_random_before_does_not_change_a_run(finished, plan):
    torch.manual_seed(99)
    torch.rand(7)
    assert curve(done(plan())) == curve(finished)


def test_a_stopped_run_has_its_checkpoint_and_a_usable_model(plan, monkeypatch):
    stop_after(monkeypatch, 3)
    run = done(plan(), "stopped")
    assert curve(run)[-1][0] == 3
    assert (run.checkpoints_dir / "checkpoint-3").is_dir()
    assert run.has_model
    assert kinds(run)[-4:] == ["step", "eval", "checkpoint", "stopped"]


def test_a_run_that_is_stopped_before_its_first_step_has_no_steps(plan):
    run = Run.create(plan())
    run.stop()
    assert train(run.folder) == run.status == "stopped"
    assert curve(run) == []


def test_a_stop_during_the_last_step_changes_nothing(plan, monkeypatch):
    stop_after(monkeypatch, 6)
    done(plan(), "finished")


VARIANTS = {  # each is stopped after its third step, where a run that goes on does not measure the validation loss
    "dropout": {"method": {"kind": "lora", "r": 4, "lora_alpha": 8, "lora_dropout": 0.3}, "eval_steps": 2},
    "accumulation, not grouped": {"gradient_accumulation_steps": 2, "group_by_length": False},
    "several epochs": {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 3, "eval_steps": 0},
    "in the second epoch": {"max_steps": -1, "num_train_epochs": 3, "per_device_train_batch_size": 5, "eval_steps": 0},
    "in the second epoch, not grouped": {
        **{"max_steps": -1, "num_train_epochs": 3, "per_device_train_batch_size": 5, "eval_steps": 0},
        "group_by_length": False,
    },
    "full": {"method": {"kind": "full"}, "eval_steps": 2},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_that_was_stopped_and_resumed_ends_as_one_that_was_not(plan, monkeypatch, variant):
    whole = done(plan(**VARIANTS[variant]))
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        run = done(plan(**VARIANTS[variant]), "stopped")
    run.reopen()
    assert train(run.folder) == "finished"
    assert run.view().curves["loss"] == whole.view().curves["loss"]
    assert run.view().tokens == whole.view().tokens
    assert same(weights(run.model_dir), weights(whole.model_dir))


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("step", [5, 8, 13])  # of five steps an epoch
def test_a_run_that_is_resumed_in_a_later_epoch_trains_on_the_rest_of_its_rows(plan, monkeypatch, step, grouped):
    settings = {"max_steps": 15, "save_steps": 0, "eval_steps": 4, "group_by_length": grouped}
    whole = done(plan(**settings))
    with monkeypatch.context() as patch:
        stop_after(patch, step, "pause")
        run = done(plan(**settings), "paused")
    run.reopen()
    assert train(run.folder) == "finished"
    assert run.view().curves["loss"] == whole.view().curves["loss"]
    assert same(weights(run.model_dir), weights(whole.model_dir))


@pytest.mark.parametrize("step", [1, 4])
def test_a_paused_run_saves_no_model_and_goes_on_to_the_same_weights(finished, plan, monkeypatch, step):
    with monkeypatch.context() as patch:
        stop_after(patch, step, "pause")
        run = done(plan(), "paused")
    assert run.events()[-1]["step"] == step
    assert not run.has_model
    assert [e["step"] for e in run.events() if e["kind"] == "eval"] == [3] * (step > 3)  # none for the pause
    run.reopen()
    assert run.status == "queued"
    assert train(run.folder) == "finished"
    assert same(weights(run.model_dir), weights(finished.model_dir))


def test_a_run_that_is_paused_before_its_first_step_starts_from_the_beginning(finished, plan):
    run = Run.create(plan())
    run.pause()
    assert train(run.folder) == "paused"
    assert run.events()[-1]["step"] == 0
    run.reopen()
    assert train(run.folder) == "finished"
    assert same(weights(run.model_dir), weights(finished.model_dir))


def test_a_checkpoint_that_was_not_written_to_its_end_is_never_there(plan, monkeypatch):
    """The power goes while the optimizer's state is written, after the weights."""
    from transformers import Trainer

    run = Run.create(plan())
    real = Trainer._save_optimizer_and_scheduler

    def broken(self, folder):
        if self.state.global_step == 4:
            raise PowerCut
        return real(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_optimizer_and_scheduler", broken)
        with pytest.raises(PowerCut):
            train(run.folder)
    assert [p.name for p in run.checkpoints_dir.glob("checkpoint-*")] == ["checkpoint-2"]
    assert train(run.folder) == "finished"
    assert not (run.checkpoints_dir / ".part").exists()


def test_only_the_newest_checkpoints_are_kept_whatever_the_clock_says(plan, monkeypatch):
    import os

    from studio.training import checkpoints

    real = checkpoints.put_in_place

    def from_the_future(folder, name):
        real(folder, name)
        later = 2e9 - int(name.rsplit("-")[-1])  # each one older than the one before it
        os.utime(folder / name, (later, later))

    monkeypatch.setattr(checkpoints, "put_in_place", from_the_future)
    run = done(plan(save_total_limit=2))
    assert sorted(p.name for p in run.checkpoints_dir.iterdir()) == ["checkpoint-4", "checkpoint-6"]


def test_a_checkpoint_is_written_when_the_last_one_is_old_enough(plan):
    run = done(plan(save_steps=0, save_minutes=1e-6))
    assert [e["step"] for e in run.events() if e["kind"] == "checkpoint"] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_fell_over_goes_on_from_its_last_whole_checkpoint_to_the_same_weights(finished, plan, monkeypatch):
    run = Run.create(plan())
    with monkeypatch.context() as patch:
        crash_after(patch, 5)
        with pytest.raises(PowerCut):
            train(run.folder)
    assert kinds(run)[-1] == "step"
    (run.checkpoints_dir / "checkpoint-4" / "trainer_state.json").write_text('{"epo')
    assert train(run.folder) == "finished"
    assert [e["resumed_from"] for e in run.events() if e["kind"] == "started"] == [None, "checkpoint-2"]
    assert same(weights(run.model_dir), weights(finished.model_dir))


def test_an_unknown_model_fails_with_what_and_fix(plan):
    recipe = plan()
    recipe.model.id = "no-owner/no-such-model"
    event = done(recipe, "failed").events()[-1]
    assert "no-owner/no-such-model" in event["what"]
    assert event["fix"]
    assert "Traceback" in event["traceback"]


def test_a_dataset_without_a_usable_row_fails_with_what_and_fix(plan, tmp_path):
    path = tmp_path / "asks.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n' * 3)
    recipe = plan()
    recipe.data.source = str(path)
    event = done(recipe, "failed").events()[-1]
    assert "3 x no assistant turn" in event["what"]
    assert event["fix"]


def test_rows_of_which_none_fits_fail_with_what_and_fix(plan):
    recipe = plan()
    recipe.data.max_length = 8
    event = done(recipe, "failed").events()[-1]
    assert "max_length 8" in event["what"]
    assert "data.max_length" in event["fix"]


def test_a_failure_of_our_own_names_the_exception(plan, monkeypatch):
    monkeypatch.setattr("studio.training.run_data.fingerprint", lambda dataset: 1 / 0)
    event = done(plan(), "failed").events()[-1]
    assert event["what"] == "Training failed with ZeroDivisionError: division by zero"


def test_running_out_of_memory_says_what_to_lower(plan, monkeypatch):
    def load_model(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("studio.models.load.load_model", load_model)
    event = done(plan(), "failed").events()[-1]
    assert event["what"] == "The worker ran out of memory."
    assert "train.per_device_train_batch_size=1 train.gradient_accumulation_steps=2" in event["fix"]


def test_left_out_and_cut_rows_are_warned_of_with_their_numbers(plan, rows):
    long = '{"prompt": "' + "word " * 200 + '", "completion": "x"}\n'
    cut = '{"prompt": "Hi", "completion": "' + "word " * 200 + '"}\n'
    rows.write_text(rows.read_text() + long + cut * 2)
    recipe = plan(max_steps=1)
    recipe.data.holdout = 0
    warnings = [e["what"] for e in done(recipe).events() if e["kind"] == "warning"]
    assert warnings[0].startswith("1 rows are left out")
    assert "(rows 13)" in warnings[0]
    assert warnings[1].startswith("2 of 14 training rows are longer than 64 tokens")


def test_full_tuning_saves_a_model_that_loads_by_itself(plan, tiny_model):
    from transformers import AutoModelForCausalLM

    run = done(plan(method={"kind": "full"}, max_steps=2))
    tuned = AutoModelForCausalLM.from_pretrained(run.model_dir).state_dict()
    base = AutoModelForCausalLM.from_pretrained(tiny_model).state_dict()
    assert tuned.keys() == base.keys()
    assert not same(tuned, base)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantised_model_is_tuned(rows, tmp_path, quantization):
    model = make_tiny_chat_model(tmp_path / "wide", hidden_size=64)
    recipe = lesson(model, rows, max_steps=4)
    recipe.model.quantization = quantization
    run = done(recipe)
    losses = curve(run)
    assert len(losses) == 4
    assert curve(run, "eval")[-1][1] < losses[0][1]


def test_a_base_model_without_a_template_is_tuned_with_chatml(rows, tmp_path):
    model = make_tiny_chat_model(tmp_path / "base", chat_template=None)
    run = done(lesson(model, rows, max_steps=2))
    assert "ChatML" in " ".join(next(e for e in run.events() if e["kind"] == "started")["notes"])
    assert run.has_model


def test_plain_text_is_tuned_on(tiny_model, tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(f'{{"text": "Once upon a time there were {n} kings."}}\n' for n in range(8)))
    assert len(curve(done(lesson(tiny_model, path, max_steps=2)))) == 2


def test_a_run_logs_to_the_events_of_an_earlier_worker_that_was_cut_off(plan):
    run = Run.create(plan(max_steps=1))
    EventLog(run.events_path).write("started")
    with run.events_path.open("ab") as file:
        file.write(b'{"time": 1, "ki')
    assert train(run.folder) == "finished"
    assert kinds(run)[0] == "started"
