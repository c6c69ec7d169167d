"""What the page calls ready: the same check that the command line and the worker make."""

import json

import pytest
from tiny import make_tiny_bert, make_tiny_chat_model, set_config

from studio.jobs.progress import Progress
from studio.models.architectures import class_names
from studio.recipe import Recipe
from studio.runs import Run, read_events
from studio.training.launch_check import Examined, check_launch

OPEN_LOOP = "{% for message in messages %}{{ message['content'] }}"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_tiny_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture
def recipe(home, tmp_path, tiny_model):
    """A recipe with these settings; twenty good rows unless others are given."""

    def make(rows=None, **sections) -> Recipe:
        good = [{"prompt": f"Say {number}.", "completion": f"{number}."} for number in range(20)]
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, rows or good)), encoding="utf-8")
        values = {"model": {"id": str(tiny_model)}, "data": {"source": str(path), "max_length": 64}}
        for name, fields in sections.items():
            values[name] = values.get(name, {}) | fields
        return Recipe.parse(values)

    return make


def codes(recipe: Recipe) -> list[str]:
    return [problem.code for problem in check_launch(recipe).problems]


def test_page_04_a_sound_recipe_has_no_problem_and_its_first_rows_are_encoded(recipe):
    checked = check_launch(recipe())
    assert (checked.problems, checked.warnings) == ([], [])
    assert checked.examined == Examined(rows=20)


def test_page_04_a_chat_template_with_an_open_loop_is_a_problem(recipe):
    (problem,) = check_launch(recipe(data={"chat_template": OPEN_LOOP})).problems
    assert problem.field == "data.chat_template"


def test_page_04_an_encoder_is_no_model_for_text_and_is_one_for_classes(recipe, encoder):
    rows = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(20)]
    assert codes(recipe(model={"id": str(encoder)})) == ["encoder_writes_no_text"]
    assert codes(recipe(rows, model={"id": str(encoder), "task": "seq_cls"})) == []


@pytest.mark.parametrize(
    ("kind", "task", "code"),
    [
        ("t5", "causal_lm", "task_not_supported"),
        ("whisper", "seq_cls", "task_not_supported"),
        ("no-such-kind", "causal_lm", "unknown_architecture"),
    ],
)
def test_page_04_an_architecture_without_the_task_is_a_problem(recipe, tmp_path, kind, task, code):
    model = make_tiny_chat_model(tmp_path / "model")
    set_config(model, model_type=kind, architectures=None)
    assert codes(recipe(model={"id": str(model), "task": task})) == [code]


def test_page_04_a_model_whose_download_failed_is_a_problem_until_it_is_fetched(recipe):
    named = recipe(model={"id": "builtin/minilm-l6", "task": "seq_cls"})
    assert codes(named) == []
    Progress("builtin/minilm-l6")._write("failed", {"what": "pip says no.", "fix": "Try again."})
    assert codes(named) == ["download_failed"]


def test_page_04_a_hub_model_that_is_not_here_is_a_problem_where_the_hub_is_switched_off(recipe, monkeypatch):
    named = recipe(model={"id": "some-owner/some-model"})
    assert codes(named) == ["model_offline"]
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert codes(named) == []


def test_page_04_a_folder_that_lacks_weights_is_a_problem(recipe, tmp_path):
    model = make_tiny_chat_model(tmp_path / "model")
    (model / "model.safetensors").unlink()
    (problem,) = check_launch(recipe(model={"id": str(model)})).problems
    assert problem.field == "model.id"


def test_page_17_rows_that_the_first_ones_reject_are_counted_by_reason(recipe):
    rows = [{"prompt": "x " * 200, "completion": "far behind"}, {"prompt": "Say 1.", "completion": "1."}] * 2
    checked = check_launch(recipe(rows, data={"max_length": 32}))
    assert checked.problems == []
    assert sum(checked.examined.rejected.values()) == 2
    assert set(checked.examined.first.values()) == {"row 1"}


def test_page_04_the_worker_refuses_what_the_page_refuses_before_it_reads_the_data(recipe, encoder, tmp_path):
    from studio.training.worker import train

    run = Run.create(recipe(model={"id": str(encoder)}, data={"source": str(tmp_path / "rows.jsonl")}))
    assert train(run.folder) == "failed"
    events, _ = read_events(run.events_path, 0)
    assert events[-1]["kind"] == "failed"
    assert not any(event.get("what") == "Reading the data" for event in events)


def test_the_tables_read_from_the_files_are_those_that_transformers_uses():
    from transformers.models.auto import modeling_auto

    for name in ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"):
        assert class_names(name) == dict(getattr(modeling_auto, name))
