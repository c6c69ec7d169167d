"""What a JSONL file of a million rows (about 0.9 GB) costs to look at: the first rows, any row, the count, memory.

    python benchmarks/large_file.py --rows 1000000

Needs the built-in model in the workspace (``python app.py fetch``) and room for the file in the temporary folder.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import psutil
from dataset_report import ROOT, write_rows

sys.path.insert(0, str(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    count = parser.parse_args().rows

    from studio.recipe import Recipe
    from studio.runs import Launcher
    from studio.training.row_preview import Wanted
    from studio.ui.context import AppContext

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, count)
        print(f"{count:,} rows, {path.stat().st_size / 1e9:.2f} GB")
        recipe = Recipe.load(ROOT / "recipes" / "quickstart.yaml", [f"data.source={path}"])
        desk = AppContext(Launcher())
        studio = psutil.Process()
        before = studio.memory_info().rss

        def timed(what: str, call) -> None:
            start = time.perf_counter()
            call()
            print(f"{what}: {time.perf_counter() - start:.2f} s")

        timed("first preview, with the start of the process that reads", lambda: desk.viewer.view(Wanted(recipe)))
        for row in (1, count // 2, count, count):
            timed(f"row {row:,}", lambda row=row: desk.viewer.view(Wanted(recipe, start=row)))
        timed("the panel", lambda: desk.known.glance(recipe))
        start = time.perf_counter()
        counted = desk.known.count(recipe)
        while counted.going:
            time.sleep(0.02)
        print(f"counted in the background: {counted.said()} after {time.perf_counter() - start:.2f} s")
        reader = max(psutil.Process().children(), key=lambda process: process.memory_info().rss)
        grown, reading = studio.memory_info().rss - before, reader.memory_info().rss
        print(f"memory: the studio grew by {grown / 1e6:.0f} MB; the reading process has {reading / 1e6:.0f} MB")
        desk.viewer.close()


if __name__ == "__main__":
    main()
