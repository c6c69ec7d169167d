"""The command line works in an ASCII locale: rows, JSON, and names of files that are not ASCII."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from studio.cli import terminal

ROOT = Path(__file__).resolve().parent.parent
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
SAID = "Grüße aus Zürich 你好 🎉"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, tiny_model):
    """A recipe and a dataset whose names and rows are not ASCII."""
    folder = tmp_path_factory.mktemp("größe")
    rows = [{"prompt": SAID, "completion": "schön"}, {"prompt": "b", "completion": "c"}]
    (folder / "grüße.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    values = {"model": {"id": str(tiny_model)}, "data": {"source": str(folder / "grüße.jsonl")}}
    (folder / "größe.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), "utf-8")
    return folder / "größe.yaml"


def run(*arguments: str, home: Path, **environment: str) -> SimpleNamespace:
    known = {name: value for name, value in os.environ.items() if name not in ("LANG", "LC_CTYPE")}
    known |= {"STUDIO_HOME": str(home), "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run([sys.executable, str(ROOT / "app.py"), *arguments], capture_output=True, env=known, cwd=ROOT)
    return SimpleNamespace(code=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_data_14_preview_works_in_an_ascii_locale(recipe, tmp_path, flags):
    done = run("preview", str(recipe), "--rows", "1", *flags, home=tmp_path, **ASCII)
    assert done.code == 0, done.err
    assert SAID in (json.loads(done.out)[0]["text"] if flags else done.out)


def test_data_14_check_and_clean_work_in_an_ascii_locale(recipe, tmp_path):
    target = tmp_path / "größer.jsonl"
    done = run("clean", str(recipe), str(target), "--json", home=tmp_path, **ASCII)
    assert done.code == 0, done.err
    assert json.loads(done.out)["path"] == str(target)
    assert SAID in target.read_text(encoding="utf-8")


def test_data_14_an_error_with_such_a_name_is_shown_in_an_ascii_locale(tmp_path):
    done = run("preview", str(tmp_path / "größe.yaml"), home=tmp_path, **ASCII)
    assert done.code == 1
    assert "größe.yaml" in done.err.replace("\n", "")


def test_data_14_json_is_json_where_the_output_alone_is_ascii(recipe, tmp_path):
    done = run(
        "preview", str(recipe), "--rows", "1", "--json", home=tmp_path, PYTHONIOENCODING="ascii", LC_ALL="C.UTF-8"
    )
    assert done.code == 0, done.err
    assert SAID in json.loads(done.out)[0]["text"]


@pytest.mark.slow
def test_data_14_the_worker_runs_and_writes_its_log_in_an_ascii_locale(recipe, tmp_path):
    few = ["train.max_steps=1", "train.eval_steps=0", "train.device=cpu", "data.holdout=0", "model.dtype=float32"]
    done = run("train", str(recipe), *few, "data.invalid_rows=drop", home=tmp_path, **ASCII)
    assert done.code == 0, done.err
    folder = tmp_path / "runs" / done.out.splitlines()[-1]
    assert yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))["name"] == "größe"
    assert (folder / "log.txt").read_bytes().decode("utf-8") is not None


def test_json_escapes_what_the_output_has_no_sign_for(monkeypatch, tmp_path):
    for encoding in ("ascii", "latin-1", "utf-8"):
        with (tmp_path / encoding).open("w", encoding=encoding) as file:
            monkeypatch.setattr(sys, "stdout", file)
            terminal.print_json({"said": SAID})
        monkeypatch.undo()
        assert json.loads((tmp_path / encoding).read_text(encoding=encoding)) == {"said": SAID}
