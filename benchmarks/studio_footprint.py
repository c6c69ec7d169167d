"""What the studio costs before anything is trained: time until the page answers, and memory while idle.

python benchmarks/studio_footprint.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parent.parent
PORT = 7899


def start() -> tuple[subprocess.Popen, float]:
    """A studio, and the seconds until its page answered."""
    begin = time.perf_counter()
    studio = subprocess.Popen([sys.executable, "app.py", "--port", str(PORT)], cwd=ROOT, stdout=subprocess.DEVNULL)
    while True:
        try:
            if httpx.get(f"http://127.0.0.1:{PORT}/", timeout=5).status_code == 200:
                return studio, time.perf_counter() - begin
        except httpx.HTTPError:
            time.sleep(0.05)


def main() -> None:
    seconds, memory = [], []
    for _ in range(4):
        studio, taken = start()
        time.sleep(3)
        memory.append(psutil.Process(studio.pid).memory_info().rss / 1e6)
        seconds.append(taken)
        studio.terminate()
        studio.wait()
    print(f"page answers after {statistics.median(seconds[1:]):.1f} s (median of {len(seconds) - 1}, warm)")
    print(f"idle studio holds {statistics.median(memory):.0f} MB")


if __name__ == "__main__":
    main()
