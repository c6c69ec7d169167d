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
from studio.training.row_preview import Wanted, answer
from studio.training.run_estimate import forecast

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


def evil(tmp_path: Path) -> Path:
    """A folder outside the model, with code that leaves a file behind when it runs."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "evil.py").write_text(CODE.format(mark=str(tmp_path / "ran")))
    return folder


@pytest.mark.parametrize("way", ["absolute", "linked folder", "linked file", "nested", "list", "other config", "gone"])
def test_security_01_an_entry_point_outside_the_listed_files_is_refused(model, way, tmp_path):
    folder = evil(tmp_path)
    (model / "sub").symlink_to(folder)
    (model / "linked.py").symlink_to(folder / "evil.py")
    absolute = f"{folder}/evil.OwnTokenizer"
    maps = {
        "absolute": {"auto_map": {"AutoConfig": absolute}},
        "linked folder": {"auto_map": {"AutoConfig": "sub/evil.OwnTokenizer"}},
        "linked file": {"auto_map": {"AutoConfig": "linked.OwnTokenizer"}},
        "nested": {"text_config": {"auto_map": {"AutoModel": absolute}}},
        "list": {"auto_map": {"AutoImageProcessor": {"pil": [None, absolute]}}},
        "other config": {"configuration_files": ["../elsewhere/config.4.0.0.json"]},
        "gone": {"auto_map": {"AutoConfig": "absent.Config"}},
    }
    set_config(model, **maps[way])
    for act in (lambda: allowed(model), lambda: load_tokenizer(model, trust_remote_code=True)):
        assert refusal(act).code == "remote_code_elsewhere"
    assert not ran(tmp_path)


def test_security_01_a_model_without_files_is_never_allowed(home, tiny_model, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "bare")
    set_config(model, auto_map={"AutoConfig": f"{evil(tmp_path)}/evil.Cfg"})
    assert refusal(lambda: allowed(model)).code == "remote_code_elsewhere"


def test_security_01_a_linked_generate_folder_is_refused(model, tmp_path):
    folder = evil(tmp_path)
    (folder / "evil.py").rename(folder / "generate.py")
    (model / "custom_generate").symlink_to(folder)
    assert refusal(lambda: remote_code.may_run(model, True)).code == "remote_code_elsewhere"


def test_security_01_files_of_the_hubs_cache_are_links_to_its_blobs(model, tmp_path):
    snapshot = tmp_path / "cache" / "snapshots" / "0123"
    shutil.copytree(model, snapshot)
    (tmp_path / "cache" / "blobs").mkdir()
    (snapshot / "own_tokenizer.py").rename(tmp_path / "cache" / "blobs" / "abc")
    (snapshot / "own_tokenizer.py").symlink_to("../../blobs/abc")
    allowed(snapshot)
    assert remote_code.may_run(snapshot, True)
    (tmp_path / "cache" / "blobs" / "abc").write_text("x = 1")
    assert refusal(lambda: remote_code.may_run(snapshot, True)).code == "remote_code_not_allowed"


def test_security_01_the_page_shows_every_entry_point_and_more_than_fifty_are_refused(model):
    from studio.ui.model import tab as model_tab

    names = [f"Auto{number}" for number in range(49)]
    set_config(model, auto_map={name: "own_tokenizer.Own" for name in names})
    tab = model_tab.ModelTab.__new__(model_tab.ModelTab)
    for name in ("code", "digest", "allow"):
        object.__setattr__(tab, name, name)
    recipe = Recipe.parse({"model": {"id": str(model), "trust_remote_code": True}})
    shown = model_tab._code_updates(tab, recipe)["code"]["value"]
    assert all(f"{name}: own_tokenizer.Own" in shown for name in [*names, "AutoTokenizer"])
    set_config(model, auto_map={name: "own_tokenizer.Own" for name in [*names, "One"]})
    assert refusal(lambda: remote_code.find_code(model)).code == "remote_code_too_large"


@pytest.mark.parametrize("damage", ["[" * 100_000, " " * (9 << 20), '{"auto_map": {"AutoModel": "/tmp/evil.Model"}}'])
def test_security_01_json_files_that_name_no_entry_points_are_not_read(model, damage):
    allowed(model)
    (model / "trainer_state.json").write_text(damage)
    assert remote_code.may_run(model, True)


@pytest.mark.parametrize("value", ["off", "0", "false", "nope", " NEVER "])
def test_security_01_any_value_of_the_switch_but_ask_forbids(home, value, monkeypatch):
    monkeypatch.setenv("STUDIO_TRUST_REMOTE_CODE", value)
    assert remote_code.is_forbidden()
    monkeypatch.setenv("STUDIO_TRUST_REMOTE_CODE", " Ask ")
    assert not remote_code.is_forbidden()


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


def test_security_01_a_folder_of_runs_needs_files_and_entry_points_of_one_permission(model, home, tmp_path):
    allowed(model)
    second = shutil.copytree(model, tmp_path / "second")
    (second / "own_tokenizer.py").write_text("class Second: pass\n")
    allowed(second)

    bare = shutil.copytree(model, home / "runs" / "bare" / "model")
    (bare / "own_tokenizer.py").unlink()
    assert remote_code.may_run(bare, True) is False  # nothing is there that could run
    set_config(bare, auto_map={"AutoConfig": f"{evil(tmp_path)}/evil.Cfg"})
    assert refusal(lambda: remote_code.may_run(bare, True)).code == "remote_code_elsewhere"

    mixed = shutil.copytree(model, home / "runs" / "mixed" / "model")
    shutil.copy(second / "own_tokenizer.py", mixed / "second.py")
    assert refusal(lambda: remote_code.may_run(mixed, True)).code == "remote_code_not_allowed"

    entered = shutil.copytree(model, home / "runs" / "entered" / "model")
    set_config(entered, auto_map={"AutoConfig": "own_tokenizer.Other"})
    assert refusal(lambda: remote_code.may_run(entered, True)).code == "remote_code_not_allowed"


def test_security_01_what_transformers_saves_of_an_allowed_tokenizer_is_allowed_in_a_run(model, home):
    allowed(model)
    copy = home / "runs" / "one" / "model"
    load_tokenizer(model, trust_remote_code=True).save_pretrained(copy)
    assert type(load_tokenizer(copy, trust_remote_code=True)).__name__ == "OwnTokenizer"


def test_security_01_every_call_that_could_run_code_says_whether_it_may():
    """transformers asks on the terminal where the argument is missing."""
    import ast

    harmless = {"PeftModel", "PreTrainedTokenizerFast", "GenerationConfig"}
    silent, calls = [], 0
    for path in sorted((ROOT / "studio").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            if call.func.attr not in ("from_pretrained", "from_config") or ast.unparse(call.func.value) in harmless:
                continue
            calls += 1
            if "trust_remote_code" not in {each.arg for each in call.keywords}:
                silent.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert calls >= 9
    assert not silent


# the command line


def test_security_01_a_recipe_file_does_not_allow_code_and_the_command_line_does(model, rows, tmp_path, home):
    from typer.testing import CliRunner

    from studio.cli.main import app as commands

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
    from studio.cli.trust import open_recipe

    path = tmp_path / "recipe.yaml"
    recipe_of(model, rows, trust_remote_code=False).save(path)
    assert not open_recipe(path, None).model.trust_remote_code
    assert open_recipe(path, ["model.trust_remote_code=true"]).model.trust_remote_code
    assert remote_code.may_run(model, True)


def test_security_01_the_command_trust_asks_before_it_allows(model):
    from typer.testing import CliRunner

    from studio.cli.main import app as commands

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
