"""``python -m studio.training RUN_DIR``: the worker process. Its exit code is 0 if the run finished, or was
stopped or paused.

A recipe with several processes is led from here: this process starts one for each rank and waits for them. On several
machines each is told its place: ``--machine 0 --machines 2 --address HOST:PORT``, and the run's folder is one that all
of them see.
"""

import argparse
import os
import sys
from pathlib import Path

from studio.jobs import process
from studio.runs import Run
from studio.thread_waiting import settle_environment
from studio.training import exit_code
from studio.training.rank_group import Place, lead
from studio.utf8 import ensure_utf8


def main() -> int:
    ensure_utf8()
    settle_environment(os.environ)
    parser = argparse.ArgumentParser(prog="python -m studio.training", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--machine", type=int, default=0, help="Number of this machine, from 0.")
    parser.add_argument("--machines", type=int, default=1, help="How many machines there are.")
    parser.add_argument("--address", default="", help="HOST:PORT of machine 0, where all meet.")
    options = parser.parse_args()
    place = Place(options.machine, options.machines, options.address)
    is_rank = "STUDIO_RANK" in os.environ
    if place.machines > 1 and place.machine == 0:  # nobody else writes down which process works on it
        process.write(options.folder / "process.json", process.describe(os.getpid(), sys.orig_argv))
    if not is_rank and (place.machines > 1 or Run(options.folder).recipe.train.num_processes > 1):
        kind = lead(options.folder, place)
    else:
        from studio.training.worker import train

        kind = train(options.folder)
    return exit_code(kind)


if __name__ == "__main__":
    sys.exit(main())
