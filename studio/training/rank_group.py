"""Starts the ranks of a run, and says how it ended if they cannot.

torchrun would start them as well, but it takes SIGTERM for itself, which here asks a run to stop with a checkpoint, and
it could not tell the run's events which rank died, and of what.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.runs import EventLog, Run
from studio.runs.events import TERMINAL, last_events
from studio.training.ranks import report_path

RANK = (sys.executable, "-u", "-m", "studio.training")
_LOOK_SECONDS = 0.1
_GRACE_SECONDS = 5.0  # for the others to end by themselves after one has failed
_LEAVE_SECONDS = 120.0  # for the others to leave after one has left in order


@dataclass(frozen=True)
class Place:
    """Which of several machines this is, and where they meet."""

    machine: int = 0
    machines: int = 1
    address: str = ""  # HOST:PORT of machine 0


def lead(folder: Path, place: Place = Place()) -> str:
    """Start this machine's ranks of the run in ``folder``, wait for them, and return the run's terminal kind.

    One rank that fails ends all of them. On machine 0 the last line of ``events.jsonl`` then says why.
    """
    run = Run(Path(folder))
    signal.signal(signal.SIGTERM, lambda *_: run.stop())  # a polite end: the ranks stop together, with a checkpoint
    count = run.recipe.train.num_processes
    for number in range(place.machine * count, (place.machine + 1) * count):
        report_path(run.folder, number).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="studio-ranks-") as meeting:
        ranks = start(run, place, count, f"tcp://{place.address}" if place.address else f"file://{meeting}/meeting")
        try:
            failed = watch(ranks)
        finally:
            for each in ranks.values():
                each.kill()
                each.wait()
    last = last_events(run.events_path)
    if last and last[-1]["kind"] in TERMINAL:
        return last[-1]["kind"]
    if place.machine == 0:
        EventLog(run.events_path).write("failed", **cause(run, ranks, failed))
    return "failed"


def start(run: Run, place: Place, count: int, meeting: str) -> dict[int, subprocess.Popen]:
    """The processes of this machine by rank. The first writes to the leader's output, the others to logs of their own.

    Each rank computes with its part of the cores, unless ``OMP_NUM_THREADS`` says otherwise.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    started = {}
    for local in range(count):
        number, all_ranks = place.machine * count + local, place.machines * count
        settings = {
            **{"STUDIO_RANK": number, "STUDIO_RANKS": all_ranks, "STUDIO_MEETING": meeting},
            **{"RANK": number, "WORLD_SIZE": all_ranks, "LOCAL_RANK": local, "LOCAL_WORLD_SIZE": count},
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or max(1, cores // count),
        }
        if place.address:  # accelerate asks for them
            settings["MASTER_ADDR"], settings["MASTER_PORT"] = place.address.rsplit(":", 1)
        environment = {**os.environ, **{name: str(value) for name, value in settings.items()}}
        command = [*RANK, str(run.folder)]
        log = None if number == 0 else (run.folder / f"log-rank-{number}.txt").open("ab")
        started[number] = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log and subprocess.STDOUT, env=environment
        )
        if log:
            log.close()
        print(f"Rank {number} is process {started[number].pid}.", flush=True)
    return started


def watch(ranks: dict[int, subprocess.Popen]) -> list[int]:
    """Wait for all ranks to end. Returns those that failed by themselves; the others are ended soon after the first."""
    failed: list[int] = []
    deadline = None
    while True:
        codes = {number: each.poll() for number, each in ranks.items()}
        failed += [number for number, code in codes.items() if code and number not in failed]
        ended = [number for number, code in codes.items() if code is not None]
        if len(ended) == len(ranks):
            return failed
        if ended and (deadline is None or failed):
            wait = time.monotonic() + (_GRACE_SECONDS if failed else _LEAVE_SECONDS)
            deadline = wait if deadline is None else min(deadline, wait)
        if deadline is not None and time.monotonic() > deadline:
            return failed
        time.sleep(_LOOK_SECONDS)


def cause(run: Run, ranks: dict[int, subprocess.Popen], failed: list[int]) -> dict[str, Any]:
    """Why the run failed: what ``failed`` says in ``events.jsonl``. Of several ranks the one that began it."""
    for number in failed:
        code = ranks[number].returncode
        if code < 0:
            name, pid = signal.Signals(-code).name, ranks[number].pid
            memory = " The system does so when memory runs out: see train.per_device_train_batch_size." * (code == -9)
            return {
                "what": f"Rank {number} (process {pid}) was ended by {name}, and the other ranks with it.",
                "fix": f"Resume the run to go on from its last checkpoint.{memory}",
                "traceback": "",
            }
    words = [json.loads(path.read_text("utf-8")) for n in ranks if (path := report_path(run.folder, n)).exists()]
    for word in sorted(words, key=lambda word: (word["lost_a_peer"], word["time"]))[:1]:
        if word["lost_a_peer"]:
            word |= {
                "what": "A rank lost its connection to another one.",
                "fix": "See the logs of the ranks in the run's folder on every machine, then resume the run.",
            }
        return {name: word[name] for name in ("what", "fix", "traceback")}
    first = failed[0] if failed else next(iter(ranks))
    return {
        "what": f"Rank {first} ended with exit code {ranks[first].returncode} and said nothing of it.",
        "fix": "See log.txt and log-rank-*.txt in the run's folder.",
        "traceback": "",
    }
