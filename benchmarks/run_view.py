"""What watching runs costs: a run of a million steps, following a live one, and a workspace with a thousand runs.

python benchmarks/run_view.py            (--steps 1000000 --runs 1000)

Everything is made in a temporary workspace and measured on the server's side, in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

REQUEST = {"axis": "step", "width": 900, "small": 290, "smoothing": 0.6}
FOLLOWED_SECONDS = 20
FOLLOWED_STEPS_PER_SECOND = 20
TABS = 8


def make_run(name: str, steps: int, *, evaluate_each: int = 1000, end: str | None = "finished"):
    """A run with all fields of a step, as the worker writes them. Returns the run."""
    from studio.recipe import Recipe
    from studio.runs import Run

    run = Run.create(Recipe(name=name))
    chance = random.Random(steps)
    now = time.time() - 0.2 * steps
    with run.events_path.open("w", encoding="utf-8") as file:

        def write(kind: str, **fields) -> None:
            file.write(json.dumps({"time": round(now, 3), "kind": kind, **fields}, separators=(",", ":")) + "\n")

        write("started", max_steps=steps, rows=8 * steps)
        for step in range(1, steps + 1):
            now += 0.2
            write("step", **step_fields(step, chance))
            if step % evaluate_each == 0:
                write("eval", step=step, loss=2 / (1 + step / 50_000) + 0.1, perplexity=3.1, tokens=18_000)
        if end:
            write(end)
    if end:
        (run.folder / "claim").touch()
    return run


def step_fields(step: int, chance: random.Random) -> dict:
    """The numbers of one step."""
    return {
        "step": step,
        "loss": 2 / (1 + step / 50_000) + chance.gauss(0, 0.15),
        "learning_rate": 1e-3 / (1 + step / 200_000),
        "grad_norm": abs(chance.gauss(1, 0.3)),
        "epoch": round(step / 250_000, 4),
        "tokens": 512 * step,
        "tokens_per_second": round(chance.gauss(2500, 90), 1),
        "memory_bytes": 2_020_782_080 + step % 7 * 4096,
        "gpu_utilization": chance.randint(80, 100),
        "gpu_temperature": chance.randint(60, 71),
    }


def in_own_process(what: str, *arguments: str) -> str:
    """What a measurement prints, made in a fresh process."""
    command = [sys.executable, __file__, "--measure", what, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()


def open_run(run_id: str) -> None:
    """Open a run as a page does, and say what it took until the first and until all points."""
    import orjson
    import psutil

    import studio.ui.app  # noqa: F401  the studio as it stands before anybody opens a run
    from studio.runs import Run
    from studio.runs.feed import Feed
    from studio.ui.runs.chart_data import answer

    process, run, feed = psutil.Process(), Run.open(run_id), Feed()
    before, used = process.memory_info().rss, sum(process.cpu_times()[:2])
    begin, first, sent, asked = time.perf_counter(), None, 0, 0
    while True:
        said = answer(feed.look(run), REQUEST)
        sent, asked = sent + len(orjson.dumps(said)), asked + 1
        if first is None and said["curves"]:
            first = time.perf_counter() - begin
        if not said["reading"]:
            break
        time.sleep(1.0 if first else 0.1)
    whole = time.perf_counter() - begin
    grown = (process.memory_info().rss - before) / 1e6
    used = sum(process.cpu_times()[:2]) - used
    print(
        f"first points {first:.2f} s, all {whole:.2f} s ({used:.1f} s of a core); "
        f"{asked} answers, {sent / 1e3:.0f} kB in all; {grown:+.0f} MB"
    )


def follow(run_id: str, tabs: str) -> None:
    """What following a run that is being written costs this process, in percent of a core."""
    import psutil

    from studio.runs import Run
    from studio.runs.feed import Feed
    from studio.ui.runs.chart_data import answer

    process, run, feed = psutil.Process(), Run.open(run_id), Feed()
    have = [None] * int(tabs)
    feed.reader(run).wait()
    for tab in range(len(have)):
        have[tab] = answer(feed.look(run), REQUEST)["have"]
    before, begin, points = sum(process.cpu_times()[:2]), time.perf_counter(), 0
    while time.perf_counter() - begin < FOLLOWED_SECONDS:
        for tab in range(len(have)):
            said = answer(feed.look(run), {**REQUEST, "have": have[tab]})
            have[tab] = said["have"]
            points += len(said["curves"].get("loss", {}).get("y", ()))
        time.sleep(1.0)
    share = (sum(process.cpu_times()[:2]) - before) / (time.perf_counter() - begin)
    print(f"{share:.2%} of a core, {points} new points of the loss sent")


def write_on(run_id: str) -> None:
    """Write step after step, until this process is ended."""
    from studio.runs import EventLog, Run

    log, chance, step = EventLog(Run.open(run_id).events_path), random.Random(0), 2000
    while True:
        step += 1
        log.write("step", **step_fields(step, chance))
        time.sleep(1 / FOLLOWED_STEPS_PER_SECOND)


def list_thousand() -> None:
    """The listing of a workspace: first look, and a tick after that."""
    from studio.runs.index import RunIndex

    index = RunIndex()
    begin = time.perf_counter()
    count = len(index.statuses())
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    for _ in range(10):
        index.statuses()
    tick = (time.perf_counter() - begin) / 10
    print(f"{count} runs: first look {first:.3f} s, a tick {1000 * tick:.1f} ms")


def timed(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        measures = {"open": open_run, "follow": follow, "write": write_on, "list": list_thousand}
        measures[chosen.measure[0]](*chosen.measure[1:])
        return
    with tempfile.TemporaryDirectory() as home:
        os.environ["STUDIO_HOME"] = home
        long = make_run("long", chosen.steps)
        print(f"A run of {chosen.steps:,} steps, {long.events_path.stat().st_size / 1e6:.0f} MB of events")
        print("  opened for the first time: ", in_own_process("open", long.id))
        print("  opened again:              ", in_own_process("open", long.id))
        (long.folder / "curves.safetensors").unlink()

        for tabs in (1, TABS):
            live = make_run("live", 2000, end=None)
            writer = subprocess.Popen([sys.executable, __file__, "--measure", "write", live.id])
            print(f"  followed live by {tabs} page(s):  ", in_own_process("follow", live.id, str(tabs)))
            writer.kill()
            writer.wait()

        for number in range(chosen.runs):
            make_run(f"run-{number}", 40, evaluate_each=20)
        print("A workspace:", in_own_process("list"))
        command = [sys.executable, "app.py", "runs", "--json"]
        print(f"  python app.py runs --json: {timed(command):.2f} s")
        print(f"  python app.py --help:      {timed([*command[:2], '--help']):.2f} s")


if __name__ == "__main__":
    main()
