"""How long a launch takes: from the click to the first step of the quickstart, and where the time goes.

    python benchmarks/launch_time.py --times 5

Every launch goes through the studio's own launcher, by turns with a fresh process and forked from the process that has
everything imported; its worker is ended after the first step. One launch before fills the page cache and the caches of
the workspace. For comparison, the time in which a fresh interpreter imports what every trainer of this kind imports.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
IMPORTS = "import torch, transformers, datasets; from trl import SFTTrainer; from peft import get_peft_model"


def launch(server: Any, name: str) -> dict[str, float]:
    """Seconds from the click to each thing that happens, in order."""
    from studio.recipe import Recipe
    from studio.runs import Launcher

    launcher = Launcher(server=server)
    recipe = Recipe.load(ROOT / "recipes" / "quickstart.yaml", [f"name={name}"])
    clicked = time.time()
    run = launcher.submit(recipe)
    launcher.tick()
    while run.view().step < 1:
        assert run.status in ("queued", "running"), run.events()[-1]
        time.sleep(0.05)
    seconds = {"process": (run.folder / "process.json").stat().st_mtime - clicked}
    for event in run.events():
        what = event["what"] if event["kind"] == "progress" else event["kind"]
        seconds.setdefault({"step": "first step"}.get(what, what), event["time"] - clicked)
    worker = run.process
    worker.kill()
    worker.wait()
    return seconds


def imports() -> dict[str, float]:
    """Seconds that a fresh interpreter takes to import everything."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    return {"imports": time.perf_counter() - begin}


def show(title: str, seen: list[dict[str, float]]) -> None:
    print(f"{title}: seconds, median of {len(seen)} (least to most)")
    for name in seen[0]:
        every = [one[name] for one in seen if name in one]
        print(f"  {name:20} {statistics.median(every):6.2f}   ({min(every):.2f} to {max(every):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times

    from studio.runs import WorkerServer

    server = WorkerServer()
    begin = time.perf_counter()
    server.warm()
    while not server.ready:
        assert not server.trouble, server.trouble
        time.sleep(0.05)
    print(f"the server is ready after {time.perf_counter() - begin:.1f} s")
    memory = psutil.Process(server.pid).memory_full_info()
    print(f"it holds {memory.rss / 1e6:.0f} MB, {memory.uss / 1e6:.0f} MB of it alone")

    seen: dict[str, list[dict[str, float]]] = {"fresh process": [], "forked": [], "a fresh interpreter": []}
    for turn in range(times + 1):
        for way, helper in {"fresh process": None, "forked": server}.items():
            seen[way].append(launch(helper, f"{way.split()[0]}-{turn}"))
        seen["a fresh interpreter"].append(imports())
    server.close()
    for way, each in seen.items():
        show(way, each[1:])


if __name__ == "__main__":
    main()
