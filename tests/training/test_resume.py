"""Resuming is checked: what a checkpoint was made from is compared with what is there now; what differs is named."""

import json
import shutil

import pytest
from lessons import curve, done, kinds, lesson, stop_after, write_rows

from studio.errors import StudioError
from studio.recipe import Recipe
from studio.recipe.sections import SECTIONS
from studio.runs import Run
from studio.runs.origin import read_origin
from studio.runs.resume_rules import ASKED, FREE, REFUSED, rule_of
from studio.training import train
from studio.training.resume import check_plan, plan_resume, with_accepted

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "rows.jsonl")


@pytest.fixture
def model(tiny_model, tmp_path):
    """A model folder that a test may change or remove."""
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture
def paused(tiny_model, rows, monkeypatch):
    """A run of six steps that was paused after the third."""
    with monkeypatch.context() as patch:
        stop_after(patch, 3, "pause")
        return done(lesson(tiny_model, rows), "paused")


def edit(run: Run, **values) -> None:
    """Change fields of a run's recipe.yaml, as a person would; ``train__seed`` is ``train.seed``."""
    recipe = run.recipe.model_dump(mode="json")
    for name, value in values.items():
        section, _, field = name.partition("__")
        recipe[section][field] = value
    Recipe.parse(recipe).save(run.folder / "recipe.yaml")


def resumed(run: Run, accept: bool = False) -> str:
    """Resume as the command line does, with the worker in this process."""
    accepted = check_plan(plan_resume(run), accept)
    run.reopen(with_accepted(run.recipe, accepted))
    return train(run.folder)


def refusal(run: Run, accept: bool = False) -> tuple[str, set[str]]:
    """The code and the fields with which resuming is refused; the run stays as it was."""
    before = run.status
    with pytest.raises(StudioError) as caught:
        resumed(run, accept)
    assert run.status == before
    return caught.value.code, {change.field for change in caught.value.changes}


def test_data_04_a_checkpoint_holds_what_it_was_made_from(paused):
    origin = read_origin(paused.checkpoints_dir / "checkpoint-3")
    assert origin["data"]["fingerprint"] == paused.recipe.resolved.data_fingerprint
    assert len(origin["data"]["examples"]) == len(origin["model"]["fingerprint"]) == 64
    assert origin["recipe"]["train"]["seed"] == 7
    assert origin["versions"]["torch"] == paused.recipe.resolved.versions["torch"]


def test_results_04_a_run_on_which_nothing_has_changed_is_resumed_without_a_question(paused):
    plan = plan_resume(paused)
    assert (plan.step, plan.changes) == (3, [])
    assert resumed(paused) == "finished"


def change_row(path):
    path.write_text(path.read_text().replace("red", "dun"))


@pytest.mark.parametrize("length", ["same length", "longer"])
def test_results_04_data_that_was_edited_is_refused_until_a_person_accepts_it(paused, rows, length):
    before = paused.recipe.resolved.data_fingerprint
    change_row(rows) if length == "same length" else write_rows(rows, 14)
    assert refusal(paused) == ("resume_changed", {"data"})
    assert resumed(paused, accept=True) == "finished"
    assert paused.recipe.resolved.data_fingerprint == before  # what it was begun with stays on record
    started = [e["data_fingerprint"] for e in paused.events() if e["kind"] == "started"]
    assert started[0] == before != started[1]
    assert any(e.get("rule") == "changed" for e in paused.events())


def test_data_04_a_file_that_was_only_touched_is_no_change(paused, rows):
    rows.write_bytes(rows.read_bytes())
    assert plan_resume(paused).changes == []


def test_data_04_a_file_that_was_moved_is_the_same_data(paused, rows):
    rows.rename(rows.with_name("moved.jsonl"))
    edit(paused, data__source=str(rows.with_name("moved.jsonl")))
    assert resumed(paused, accept=True) == "finished"


def test_data_04_the_worker_itself_refuses_data_that_changed_without_a_trace(paused, rows, monkeypatch):
    """The quick look compares files; the worker compares the rows."""
    from studio.training import resume

    change_row(rows)
    origin = read_origin(paused.checkpoints_dir / "checkpoint-3")
    with monkeypatch.context() as patch:
        patch.setattr(resume, "source_files", lambda data: origin["data"]["sources"])
        assert resumed(paused) == "failed"
    end = paused.events()[-1]
    assert (end["code"], [change["field"] for change in end["changes"]]) == ("resume_changed", ["data"])
    assert curve(paused)[-1][0] == 3
    assert resumed(paused, accept=True) == "finished"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train__optim", "sgd"),
        ("train__seed", 8),
        ("train__per_device_train_batch_size", 3),
        ("train__gradient_accumulation_steps", 2),
        ("train__group_by_length", False),
        ("method__r", 8),
        ("method__lora_alpha", 16),
        ("model__dtype", "bfloat16"),
    ],
)
def test_results_05_what_cannot_change_in_the_middle_of_a_run_is_refused_in_any_case(paused, field, value):
    edit(paused, **{field: value})
    for accept in (False, True):
        assert refusal(paused, accept) == ("resume_refused", {field.replace("__", ".")})


def test_results_05_another_method_is_refused_as_one_change(paused):
    recipe = paused.recipe.model_dump(mode="json") | {"method": {"kind": "full"}}
    Recipe.parse(recipe).save(paused.folder / "recipe.yaml")
    assert refusal(paused, accept=True) == ("resume_refused", {"method.kind"})


def test_results_05_the_worker_refuses_too(paused):
    edit(paused, train__optim="sgd")
    paused.reopen()
    assert train(paused.folder) == "failed"
    assert paused.events()[-1]["code"] == "resume_refused"


def test_results_05_a_learning_rate_that_was_edited_is_named_and_then_used(paused):
    edit(paused, train__learning_rate=0.002)
    assert refusal(paused) == ("resume_changed", {"train.learning_rate"})
    assert resumed(paused, accept=True) == "finished"
    rates = {e["step"]: e["learning_rate"] for e in paused.events() if e["kind"] == "step"}
    from studio.training.schedule import rate_at

    train_of = paused.recipe.train
    assert [rates[step] for step in (4, 5, 6)] == pytest.approx([rate_at(train_of, step - 1, 6) for step in (4, 5, 6)])
    assert rates[4] < 0.002 < rates[3]


@pytest.mark.parametrize(
    ("field", "value"),
    [("train__weight_decay", 0.5), ("train__adam_beta1", 0.5), ("train__lr_scheduler_type", "linear")],
)
def test_results_05_other_settings_of_the_optimizer_are_used_from_the_next_step(paused, monkeypatch, field, value):
    from studio.training import trainer

    kept = []
    real = trainer.build_trainer
    monkeypatch.setattr(trainer, "build_trainer", lambda **options: kept.append(real(**options)) or kept[-1])
    edit(paused, **{field: value})
    assert refusal(paused) == ("resume_changed", {field.replace("__", ".")})
    assert resumed(paused, accept=True) == "finished"
    group = kept[0].optimizer.param_groups[0]
    expected = {"train__weight_decay": ("weight_decay", 0.5), "train__adam_beta1": ("betas", (0.5, 0.999))}
    if field in expected:
        name, wanted = expected[field]
        assert group[name] == wanted
    else:
        rates = [e["learning_rate"] for e in paused.events() if e["kind"] == "step"]
        assert rates[4] - rates[3] == pytest.approx(rates[5] - rates[4])  # a line


def test_results_05_settings_that_change_no_weight_are_not_asked_about(paused):
    edit(paused, train__save_steps=1, train__eval_steps=1, train__logging_steps=1, train__save_total_limit=3)
    assert plan_resume(paused).changes == []


def test_results_05_other_versions_of_packages_are_named_and_not_asked_about(paused):
    file = paused.checkpoints_dir / "checkpoint-3" / "origin.json"
    origin = json.loads(file.read_text())
    origin["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(origin))
    (change,) = plan_resume(paused).changes
    assert (change.field, change.kind, change.before) == ("versions.torch", "note", "1.0")
    assert resumed(paused) == "finished"
    assert any("versions.torch" in e["what"] for e in paused.events() if e["kind"] == "warning")


def test_results_05_what_was_accepted_once_is_not_asked_again(paused, monkeypatch):
    edit(paused, train__learning_rate=0.002)
    accepted = check_plan(plan_resume(paused), accept=True)
    paused.reopen(with_accepted(paused.recipe, accepted))  # and its worker is killed before it writes a checkpoint
    assert plan_resume(paused).asked == []
    edit(paused, train__learning_rate=0.003)
    assert [change.field for change in plan_resume(paused).asked] == ["train.learning_rate"]


def test_results_05_base_weights_that_were_replaced_are_refused(model, rows, monkeypatch):
    from tiny import make_tiny_chat_model

    with monkeypatch.context() as patch:
        stop_after(patch, 3, "pause")
        run = done(lesson(model, rows), "paused")
    shutil.copytree(model, model.with_name("copy"))
    edit(run, model__id=str(model.with_name("copy")))
    assert {change.kind for change in plan_resume(run).changes} == {"note"}  # moved, the same files
    edit(run, model__id=str(model))
    make_tiny_chat_model(model, seed=5)
    assert refusal(run, accept=True) == ("resume_refused", {"model"})


def test_results_05_every_field_that_the_rules_name_is_in_the_recipe():
    for name in (*REFUSED, *FREE, *ASKED):
        section, field = name.split(".")
        assert field in SECTIONS[section].model_fields, name
    assert rule_of("method.lora_dropout")[0] == "ask"
    assert rule_of("train.a_field_of_tomorrow")[0] == "ask"


def test_results_05_a_checkpoint_of_an_earlier_version_is_compared_with_the_recipe_of_its_run(paused, rows):
    (paused.checkpoints_dir / "checkpoint-3" / "origin.json").unlink()
    assert plan_resume(paused).changes == []
    write_rows(rows, 14)
    paused.reopen()
    assert train(paused.folder) == "failed"
    assert paused.events()[-1]["code"] == "resume_changed"


@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_results_11_a_dataset_that_is_gone_was_there_at_the_start(paused, rows, with_checkpoint):
    if not with_checkpoint:
        shutil.rmtree(paused.checkpoints_dir)
    rows.unlink()
    with pytest.raises(StudioError) as caught:
        plan_resume(paused)
    assert (caught.value.code, caught.value.field) == ("data_gone", "data.source")
    assert str(rows) in caught.value.what
    if with_checkpoint:
        assert paused.recipe.resolved.data_fingerprint[:12] in caught.value.what
    paused.reopen()
    assert train(paused.folder) == "failed"
    assert paused.events()[-1]["code"] == "data_gone"
    write_rows(rows)
    assert resumed(paused, accept=True) == "finished"


def test_results_11_a_model_that_is_gone_was_there_at_the_start(model, rows, monkeypatch):
    stop_after(monkeypatch, 3, "pause")
    run = done(lesson(model, rows), "paused")
    shutil.rmtree(model)
    with pytest.raises(StudioError) as caught:
        plan_resume(run)
    assert caught.value.code == "model_gone"


def test_results_11_an_adapter_that_is_gone_was_there_at_the_start(tiny_model, rows, monkeypatch, tmp_path):
    first = done(lesson(tiny_model, rows, max_steps=1))
    adapter = shutil.copytree(first.model_dir, tmp_path / "adapter")
    recipe = lesson(tiny_model, rows)
    recipe.model.adapter = str(adapter)
    with monkeypatch.context() as patch:
        stop_after(patch, 3, "pause")
        run = done(recipe, "paused")
    assert plan_resume(run).changes == []
    shutil.rmtree(adapter)
    with pytest.raises(StudioError) as caught:
        plan_resume(run)
    assert caught.value.code == "adapter_gone"


def test_page_15_checkpoints_that_were_deleted_are_named_before_a_run_begins_anew(paused, monkeypatch):
    shutil.rmtree(paused.checkpoints_dir)
    assert refusal(paused) == ("resume_changed", {"checkpoint"})
    assert resumed(paused, accept=True) == "finished"
    assert [step for step, _ in curve(paused)] == [1, 2, 3, 1, 2, 3, 4, 5, 6]


def test_results_05_the_exit_code_of_a_worker_does_not_depend_on_how_it_was_started():
    from studio.training import exit_code

    assert [exit_code(kind) for kind in ("finished", "stopped", "paused", "failed")] == [0, 0, 0, 1]


def test_results_05_a_resumed_run_of_a_repeated_recipe_compares_with_its_own_checkpoint(paused, rows, monkeypatch):
    """``again`` makes a new run, which has nothing to do with the checkpoints of the first."""
    with monkeypatch.context() as patch:
        stop_after(patch, 2, "pause")
        again = done(paused.recipe, "paused")
    edit(paused, train__learning_rate=0.1)
    assert plan_resume(again).changes == []
    assert resumed(again) == "finished"
    assert kinds(again)[-1] == "finished"
