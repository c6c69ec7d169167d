"""Code that comes with a model runs only after a person has allowed these very files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny import set_config

from studio.errors import StudioError
from studio.models import remote_code, store
from studio.models.load import load_model, load_tokenizer
from studio.recipe import ModelSpec, Recipe
from studio.training.forecast import forecast
from studio.training.view import Wanted, answer

ROOT = Path(__file__).resolve().parents[2]
CODE = """
from pathlib import Path
from transformers import PreTrainedTokenizerFast

Path({mark!r}).write_text("ran")


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def model(home, tiny_model, tmp_path):
    """A model whose tokenizer names Python code of its own, which leaves a file behind when it runs."""
    folder = tmp_path / "own-code"
    shutil.copytree(tiny_model, folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {
        "auto_map": {"AutoTokenizer": [None, "own_tokenizer.OwnTokenizer"]},
        "tokenizer_class": "OwnTokenizer",
    }
    path.write_text(json.dumps(config))
    (folder / "own_tokenizer.py").write_text(CODE.format(mark=str(tmp_path / "ran")))
    return folder


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n}?", "answer": str(n)}) + "\n" for n in range(12)))
    return path


def recipe_of(model: Path, rows: Path, **more) -> Recipe:
    values = {"model": {"id": str(model), "trust_remote_code": True, **more}, "data": {"source": str(rows)}}
    return Recipe.parse(values).check()


def allowed(model: Path) -> None:
    spec = ModelSpec(id=str(model), trust_remote_code=True)
    remote_code.allow(spec, model, remote_code.find_code(model).digest)


def refusal(act) -> StudioError:
    with pytest.raises(StudioError) as caught:
        act()
    return caught.value


def ran(tmp_path: Path) -> bool:
    return (tmp_path / "ran").exists()


def test_security_01_a_preview_never_runs_code_that_nobody_has_allowed(model, rows, tmp_path):
    recipe = recipe_of(model, rows)
    for request in (("view", Wanted(recipe)), ("template", recipe)):
        assert refusal(lambda request=request: answer(request, {})).code == "remote_code_not_allowed"
    assert not ran(tmp_path)


def test_security_01_no_way_of_loading_runs_code_that_nobody_has_allowed(model, rows, tmp_path):
    from studio.inference import Engine
    from studio.inference.types import Target
    from studio.training.check import check

    recipe = recipe_of(model, rows)
    ways = (
        lambda: load_tokenizer(recipe.model),
        lambda: load_tokenizer(model, trust_remote_code=True),
        lambda: load_model(recipe.model),
        lambda: forecast(recipe),
        lambda: check(recipe),
        lambda: Engine().open(Target("base", "base", model=recipe.model)),
    )
    assert [refusal(way).code for way in ways] == ["remote_code_not_allowed"] * len(ways)
    assert not ran(tmp_path)


def test_security_01_allowed_code_runs_and_changed_code_is_asked_about_again(model, tmp_path):
    allowed(model)
    assert type(load_tokenizer(model, trust_remote_code=True)).__name__ == "OwnTokenizer"
    assert ran(tmp_path)
    with (model / "own_tokenizer.py").open("a") as file:
        file.write("# one more line\n")
    assert refusal(lambda: load_tokenizer(model, trust_remote_code=True)).code == "remote_code_not_allowed"


def test_security_01_a_new_entry_point_or_file_is_asked_about_again(model):
    allowed(model)
    assert remote_code.may_run(model, True)
    (model / "more.py").write_text("x = 1\n")
    assert refusal(lambda: remote_code.may_run(model, True)).code == "remote_code_not_allowed"
    (model / "more.py").unlink()
    assert remote_code.may_run(model, True)
    set_config(model, auto_map={"AutoModelForCausalLM": "own_tokenizer.Other"})
    assert refusal(lambda: remote_code.may_run(model, True)).code == "remote_code_not_allowed"


def test_security_01_a_permission_is_for_one_folder(model, tmp_path):
    allowed(model)
    other = shutil.copytree(model, tmp_path / "other")
    assert refusal(lambda: remote_code.may_run(other, True)).code == "remote_code_not_allowed"


def test_security_01_permission_needs_the_files_that_were_listed(model):
    spec = ModelSpec(id=str(model))
    assert refusal(lambda: remote_code.allow(spec, model, "")).code == "remote_code_changed"
    listed = remote_code.find_code(model).digest
    (model / "own_tokenizer.py").write_text("import os\n")
    assert refusal(lambda: remote_code.allow(spec, model, listed)).code == "remote_code_changed"


def test_security_01_every_python_file_is_listed_with_size_and_hash(model):
    (model / "sub").mkdir()
    (model / "sub" / "helper.py").write_text("y = 2\n")
    code = remote_code.find_code(model)
    assert [file.path for file in code.files] == ["own_tokenizer.py", "sub/helper.py"]
    assert code.files[1].size == 6
    assert all(len(file.sha256) == 64 for file in code.files)


def test_security_01_code_in_another_repository_is_refused(model):
    set_config(model, auto_map={"AutoConfig": "someone/else--configuration_x.XConfig"})
    assert refusal(lambda: remote_code.may_run(model, True)).code == "remote_code_elsewhere"


@pytest.mark.parametrize("names", [{"STUDIO_TRUST_REMOTE_CODE": "never"}, {"SPACE_ID": "owner/space"}])
def test_security_01_a_switch_forbids_it_entirely_and_is_the_default_on_a_space(model, names, monkeypatch, tmp_path):
    allowed(model)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert refusal(lambda: load_tokenizer(model, trust_remote_code=True)).code == "remote_code_forbidden"
    assert refusal(lambda: allowed(model)).code == "remote_code_forbidden"
    assert not ran(tmp_path)


def test_security_01_a_space_can_be_told_to_ask(model, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "owner/space")
    monkeypatch.setenv("STUDIO_TRUST_REMOTE_CODE", "ask")
    allowed(model)
    assert remote_code.may_run(model, True)


def test_a_permission_can_be_taken_back(model):
    allowed(model)
    assert remote_code.withdraw(model)
    assert refusal(lambda: remote_code.may_run(model, True)).code == "remote_code_not_allowed"


def test_a_model_without_code_needs_no_permission(home, tiny_model):
    assert remote_code.may_run(tiny_model, True) is False
    assert remote_code.needs_permission(tiny_model, True) is None


def test_a_copy_that_a_run_has_written_keeps_the_permission(model, home):
    allowed(model)
    run = home / "runs" / "one" / "model"
    shutil.copytree(model, run)
    assert remote_code.may_run(run, True)


# the command line


def test_security_01_a_recipe_file_does_not_allow_code_and_the_command_line_does(model, rows, tmp_path, home):
    from typer.testing import CliRunner

    from studio.cli import app as commands

    path = tmp_path / "recipe.yaml"
    recipe_of(model, rows).save(path)
    run = CliRunner().invoke
    for command in ("train", "preview", "check", "estimate", "create"):
        done = run(commands, [command, str(path)])
        assert done.exit_code == 1, command
        assert not ran(tmp_path)
    assert not list(store.Workspace.current().runs.glob("*"))
    assert run(commands, ["preview", str(path), "--json", "--trust-remote-code"]).exit_code == 0
    assert ran(tmp_path)
    assert run(commands, ["preview", str(path), "--json"]).exit_code == 0  # it is remembered


def test_security_01_an_override_that_was_typed_allows_code(model, rows, tmp_path):
    from studio.cli_trust import open_recipe

    path = tmp_path / "recipe.yaml"
    recipe_of(model, rows, trust_remote_code=False).save(path)
    assert not open_recipe(path, None).model.trust_remote_code
    assert open_recipe(path, ["model.trust_remote_code=true"]).model.trust_remote_code
    assert remote_code.may_run(model, True)


def test_security_01_the_command_trust_asks_before_it_allows(model):
    from typer.testing import CliRunner

    from studio.cli import app as commands

    assert CliRunner().invoke(commands, ["trust", str(model)], input="n\n").exit_code == 1
    assert remote_code.needs_permission(model, True)
    assert CliRunner().invoke(commands, ["trust", str(model)], input="y\n").exit_code == 0
    assert remote_code.may_run(model, True)
    assert CliRunner().invoke(commands, ["trust", str(model), "--forget"]).exit_code == 0
    assert remote_code.needs_permission(model, True)


def test_security_01_a_worker_refuses_code_that_nobody_has_allowed(model, rows, tmp_path):
    from studio.runs import Run
    from studio.training.worker import train

    run = Run.create(recipe_of(model, rows))
    run.claim()
    assert train(run.folder) == "failed"
    assert not ran(tmp_path)
