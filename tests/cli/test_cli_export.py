"""``python app.py export``: the path on stdout, the rest beside it."""

import pytest
from lessons import done, lesson, write_rows
from typer.testing import CliRunner

from studio.cli import main
from studio.export import KINDS
from studio.runs import Run


def call(*arguments: str):
    return CliRunner().invoke(main.app, ["export", *map(str, arguments)])


@pytest.fixture
def run(home, tiny_model, tmp_path):
    return done(lesson(tiny_model, write_rows(tmp_path / "rows.jsonl"), max_steps=2))


def test_the_last_line_on_stdout_is_the_path(run, tmp_path):
    result = call(run.id, "merged", "--to", tmp_path / "out", "--dtype", "bfloat16")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'out'}\n"
    assert "in bfloat16 is within" in result.stderr
    assert (tmp_path / "out/model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nonsense"], "There is no export 'nonsense'"),
        (["merged", "--dtype", "int3"], "dtype is 'int3'"),
        (["hub"], "not a repository's name"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(run, arguments, why):
    result = call(run.id, *arguments)
    assert result.exit_code == 1
    assert why in result.stderr
    assert result.stdout == ""


def test_a_run_without_a_model_is_not_shipped(home, tiny_model, tmp_path):
    run = Run.create(lesson(tiny_model, write_rows(tmp_path / "rows.jsonl")))
    assert "no tuned model yet" in call(run.id, "merged").stderr


def test_the_help_names_every_kind():
    shown = call("--help").stdout
    assert all(name in shown for name in KINDS)
