"""How the cost of a step grows with the length of the rows and with the batch, for the studio's worker.

    python benchmarks/cost_curves.py                      # lengths 128 to 4096, batches 1 to 32; some twenty minutes
    python benchmarks/cost_curves.py --chart docs/cost.svg

Each point is a run of its own (`python app.py train`) of ``--steps`` steps of LoRA on the built-in model, on rows that
are all as long as the length. Printed are the medians of all steps but the first: real tokens a second, seconds a step,
and the largest memory. ``--random``, ``--model``, ``--full`` as in throughput.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from throughput import SHAPES, model_folder, rows_of  # noqa: E402

LENGTHS, BATCHES = (128, 256, 512, 1024, 2048, 4096), (1, 2, 4, 8, 16, 32)
USUAL_LENGTH, USUAL_BATCH = 256, 1


def measure(folder: Path, scratch: Path, length: int, batch: int, steps: int, full: bool) -> dict:
    """One run; ``tokens_per_second``, ``seconds`` a step and ``peak_memory_bytes``."""
    from transformers import AutoTokenizer

    rows, _ = rows_of(None, 4, AutoTokenizer.from_pretrained(folder), length, filled=True)
    source = scratch / f"rows-{length}-{batch}.jsonl"
    lines = [json.dumps({"messages": [*row["prompt"], *row["completion"]]}) for row in rows]
    source.write_text("\n".join(lines[number % len(lines)] for number in range(batch * 2)), encoding="utf-8")
    recipe = {
        "name": f"cost-{length}-{batch}",
        "model": {"id": str(folder)},
        "data": {"source": str(source), "max_length": length, "holdout": 0},
        "method": {"kind": "full"} if full else {"kind": "lora", "r": 16, "lora_alpha": 32},
        "train": {
            "max_steps": steps,
            "per_device_train_batch_size": batch,
            "save_steps": 0,
            "sample_count": 0,
            "optim": "adamw_torch_fused",
        },
    }
    path = scratch / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    command = [sys.executable, str(ROOT / "app.py"), "train", str(path)]
    run = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    ).stdout.split()
    events = (Path(os.environ["STUDIO_HOME"]) / "runs" / run[-1] / "events.jsonl").read_text("utf-8").splitlines()
    found = [json.loads(line) for line in events]
    speeds = [event["tokens_per_second"] for event in found if event["kind"] == "step"][1:]
    speed = statistics.median(speeds)
    seconds = batch * length / speed
    return {"tokens_per_second": speed, "seconds": seconds, "peak_memory_bytes": found[-1]["peak_memory_bytes"]}


def chart(found: dict[str, dict[int, dict]], path: Path) -> None:
    """Tokens a second over length and over batch, as an SVG by hand: plotly would need a browser to write one."""
    width, height, left, top = 330, 220, 52, 34
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * width + 60}" height="{height + 66}" ']
    parts.append('font-family="system-ui, sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>')
    most = 1.1 * max(one["tokens_per_second"] for points in found.values() for one in points.values())
    for place, (name, points) in enumerate(found.items()):
        x0 = left + place * (width + 30)
        where = [x0 + 20 + i * (width - 90) / max(1, len(points) - 1) for i in range(len(points))]
        heights = [top + height * (1 - one["tokens_per_second"] / most) for one in points.values()]
        parts.append(f'<text x="{x0}" y="18" font-weight="600">real tokens/s by {name}</text>')
        parts.append(f'<path d="M{x0} {top}V{top + height}H{x0 + width - 50}" fill="none" stroke="#999"/>')
        line = " ".join(f"{x:.0f},{y:.0f}" for x, y in zip(where, heights, strict=True))
        parts.append(f'<polyline points="{line}" fill="none" stroke="#4f46e5" stroke-width="2"/>')
        for x, y, (value, one) in zip(where, heights, points.items(), strict=True):
            parts.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3.5" fill="#4f46e5"/>')
            parts.append(
                f'<text x="{x:.0f}" y="{y - 8:.0f}" text-anchor="middle">{one["tokens_per_second"]:.0f}</text>'
            )
            parts.append(f'<text x="{x:.0f}" y="{top + height + 18}" text-anchor="middle">{value}</text>')
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="*", default=LENGTHS)
    parser.add_argument("--batches", type=int, nargs="*", default=BATCHES)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--model")
    parser.add_argument("--random", choices=SHAPES)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--chart", type=Path, help="an SVG file to write")
    options = parser.parse_args()
    found: dict[str, dict[int, dict]] = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = model_folder(options.model, options.random, scratch)
        os.environ.setdefault("STUDIO_HOME", name)
        series = {
            f"length (batch {USUAL_BATCH})": [(length, length, USUAL_BATCH) for length in options.lengths],
            f"batch (length {USUAL_LENGTH})": [(batch, USUAL_LENGTH, batch) for batch in options.batches],
        }
        for title, points in series.items():
            print(f"\n| {title} | real tokens/s | seconds a step | peak memory |\n| --- | --- | --- | --- |")
            found[title] = {}
            for value, length, batch in points:
                one = measure(folder, scratch, length, batch, options.steps, options.full)
                found[title][value] = one
                memory = f"{one['peak_memory_bytes'] / 1e9:.2f} GB"
                print(f"| {value} | {one['tokens_per_second']:.0f} | {one['seconds']:.2f} | {memory} |", flush=True)
    if options.chart:
        chart({title: points for title, points in found.items() if points}, options.chart)


if __name__ == "__main__":
    main()
