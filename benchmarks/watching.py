"""What it costs a run that the studio shows it in two browsers: seconds a step, and processor time of each part.

    STUDIO_HOME=WORKSPACE python benchmarks/watching.py [--steps 40] [--turns 3]

The quickstart's recipe is trained from the terminal on the workspace of a studio, in turns with nobody watching and
with two pages of headless Chromium that show the run. Counted is from when both pages are there and still. Two figures
are told: the share of the processor that the studio and its helpers take while it is watched, which is its own cost
wherever the browsers are; and the ratio of the median steps, with the browsers on the same cores as the training. First
comes what the worker does beside a step: an event written, the memory asked for, the files looked for that stop or
pause a run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PORT = 7898
SETTLING = 40  # seconds in which the pages are drawn
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--no-first-run"]


def train(steps: int, watch: Callable[[str], None], server: psutil.Process) -> tuple[float, float]:
    """Median seconds of a step, and the studio's share of a core. ``watch`` gets the run's id, and what comes before it
    returns is not counted."""
    home = Path(os.environ["STUDIO_HOME"])
    before = set((home / "runs").glob("*")) if (home / "runs").exists() else set()
    command = [sys.executable, "app.py", "train", "recipes/quickstart.yaml", f"train.max_steps={steps}"]
    command += ["train.eval_steps=0", "train.save_steps=0", "train.sample_count=0"]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = None
    while folder is None:
        time.sleep(0.2)
        made = {path for path in (home / "runs").glob("2*")} - before
        folder = next(iter(made), None)
    watch(folder.name)
    earlier, begun = used(server), time.time()
    run.wait()
    share = (used(server) - earlier) / (time.time() - begun)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text("utf-8").splitlines()]
    times = [event["time"] for event in events if event["kind"] == "step" and event["time"] > begun]
    return statistics.median(b - a for a, b in pairwise(times)), share


def own_seconds(times: int = 2000) -> float:
    """Seconds that the worker takes at each step to tell of it, and to see whether it should end."""
    from studio.recipe import Recipe
    from studio.runs import EventLog, Run
    from studio.training.gpu_state import gpu_state
    from studio.training.memory_monitor import peak_memory_bytes

    with tempfile.TemporaryDirectory() as home:
        os.environ["STUDIO_HOME"], before = home, os.environ["STUDIO_HOME"]
        run = Run.create(Recipe())
        log, begun = EventLog(run.events_path), time.perf_counter()
        for step in range(times):
            told = {"loss": 1.234, "learning_rate": 2e-4, "grad_norm": 0.5, "epoch": 0.1, "tokens": 330 * step}
            log.write("step", step=step, **told, memory_bytes=peak_memory_bytes("cpu"), **gpu_state("cpu"))
            assert run.ending is None
        seconds = (time.perf_counter() - begun) / times
        log.close()
        os.environ["STUDIO_HOME"] = before
    return seconds


def used(server: psutil.Process) -> float:
    """Processor seconds of the studio and the processes that it started, but for workers."""
    family = [server, *server.children(recursive=True)]
    return sum(sum(each.cpu_times()[:2]) for each in family)


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    own = own_seconds()
    print(f"beside a step the worker takes {1e6 * own:.0f} microseconds for its events", flush=True)
    command = [sys.executable, "app.py", "--port", str(PORT)]
    studio = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found: dict[str, list[float]] = {"alone": [], "watched": []}
    shares: dict[str, list[float]] = {"alone": [], "watched": []}
    try:
        time.sleep(15)
        server = psutil.Process(studio.pid)
        for _ in range(options.turns):
            for way in found:
                with sync_playwright() as playwright:
                    pages = []

                    def watch(run: str, way=way, pages=pages, playwright=playwright) -> None:
                        if way == "watched":
                            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
                            for _ in range(2):
                                page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
                                page.goto(f"http://127.0.0.1:{PORT}/?run={run}")
                                pages.append(page)
                        time.sleep(SETTLING)

                    seconds, share = train(options.steps, watch, server)
                    found[way].append(seconds)
                    shares[way].append(share)
                    if pages:
                        pages[0].context.browser.close()
                print(f"{way}: {found[way][-1]:.3f} s a step, studio {shares[way][-1]:.1%} of a core", flush=True)
    finally:
        studio.terminate()
        studio.wait()
    alone, watched = (statistics.median(found[way]) for way in ("alone", "watched"))
    cores = len(os.sched_getaffinity(0))
    print(f"the worker's events: {own / alone:.3%} of a step")
    print(f"the studio, watched by two pages: {statistics.median(shares['watched']) / cores:.2%} of {cores} cores")
    print(f"a step with both browsers on the same cores: {watched / alone:.3f} times as long")


if __name__ == "__main__":
    main()
