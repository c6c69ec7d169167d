"""The commands for several machines, as text."""

import subprocess

import pytest
from typer.testing import CliRunner

from studio.cli.main import app
from studio.runs import Run

pytestmark = pytest.mark.usefixtures("home")


def script(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["launch-script", "recipes/quickstart.yaml", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_each_machine_has_its_command(home):
    text = script("--machines", "3", "--processes", "2", "train.max_steps=5")
    for number in range(3):
        assert f'-m studio.training "$RUN" --machines 3 --machine {number} --address "$MACHINE0:29500"' in text
    assert "app.py create" in text
    assert "train.max_steps=5 train.num_processes=2" in text
    assert f"STUDIO_HOME={home}" in text


def test_slurm_gets_one_task_a_machine_and_the_machines_numbers():
    text = script("--machines", "4", "--processes", "8", "--slurm", "--port", "29511")
    assert text.startswith("#!/bin/bash\n#SBATCH")
    assert "#SBATCH --nodes=4\n#SBATCH --ntasks-per-node=1\n#SBATCH --gpus-per-node=8" in text
    assert '--machine "$SLURM_NODEID" --address "$MACHINE0:29511"' in text


@pytest.mark.parametrize("options", [(), ("--slurm",)])
def test_the_script_is_one_that_bash_reads(options):
    assert subprocess.run(["bash", "-n"], input=script(*options), text=True).returncode == 0


def test_a_recipe_with_problems_has_no_script():
    done = CliRunner().invoke(app, ["launch-script", "recipes/quickstart.yaml", "train.max_steps=0"])
    assert done.exit_code == 1


def test_a_run_that_is_created_waits_for_its_own_command():
    done = CliRunner().invoke(app, ["create", "recipes/quickstart.yaml", "train.num_processes=2"])
    run = Run.open(done.stdout.strip().rsplit("/", 1)[-1])
    assert run.claimed
    assert run.recipe.train.num_processes == 2
