"""The commands that train one run on several machines, as text: for a person, or for SLURM."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from studio.runs.worker_server import ROOT
from studio.workspace import Workspace

PORT = 29500  # as torchrun's


def launch_script(
    recipe: Path, overrides: Sequence[str], *, machines: int, processes: int, slurm: bool, port: int = PORT
) -> str:
    """Commands for ``machines`` machines with so many processes each.

    All of them must see the studio's code, its Python, the workspace and the data under the same paths.
    """
    assert machines >= 1 and processes >= 1
    given = [str(recipe.resolve()), *overrides, f"train.num_processes={processes}"]
    create = f"{shlex.quote(sys.executable)} app.py create {' '.join(map(shlex.quote, given))}"
    train = f'{shlex.quote(sys.executable)} -m studio.training "$RUN" --machines {machines}'
    where = [f"cd {shlex.quote(str(ROOT))}", f"export STUDIO_HOME={shlex.quote(str(Workspace.current().root))}"]
    if slurm:
        lines = _slurm(where, create, train, machines, processes, port)
    else:
        lines = _by_hand(where, create, train, machines, port)
    return "\n".join(lines) + "\n"


def _by_hand(where: list[str], create: str, train: str, machines: int, port: int) -> list[str]:
    lines = [
        f"# {machines} machines. Each sees this folder, the workspace and the data under the same paths.",
        "# Once, on machine 0: makes the run and says where it is.",
        *where,
        create,
        "",
        "# On every machine, within a few minutes: RUN is what was printed, MACHINE0 the name or address of machine 0.",
        *where,
        "RUN=...",
        "MACHINE0=...",
    ]
    for number in range(machines):
        address = f' --address "$MACHINE0:{port}"'
        lines += [f"# machine {number}", f"{train} --machine {number}{address}"]
    return lines


def _slurm(where: list[str], create: str, train: str, machines: int, processes: int, port: int) -> list[str]:
    inner = f'{train} --machine "$SLURM_NODEID" --address "$MACHINE0:{port}"'
    return [
        "#!/bin/bash",
        "#SBATCH --job-name=sft-studio",
        f"#SBATCH --nodes={machines}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --gpus-per-node={processes}  # leave it out on CPUs",
        "#SBATCH --time=04:00:00",
        "# At the end of its time the job gets SIGTERM: the run then stops with a checkpoint, and can be resumed.",
        "#SBATCH --signal=TERM@120",
        "set -euo pipefail",
        *where,
        f"RUN=$({create})",
        'MACHINE0=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "export RUN MACHINE0",
        f"srun bash -c {shlex.quote(inner)}",
    ]
