"""Every method on the built-in model and data, one after the other: what it trains, costs and learns.

    python benchmarks/methods.py                 # all of them; about two to five minutes each on two cores
    python benchmarks/methods.py lora oft        # some; those that are done already are not run again
    python benchmarks/methods.py --table         # print the table of docs/methods.md from what is done

Results are kept in the workspace (benchmarks/methods.json), by the method and its settings. Each is trained by
`python app.py train recipes/quickstart.yaml` with the overrides that are printed, and scored by `app.py evaluate`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from studio.recipe_methods import METHODS  # noqa: E402
from studio.runs import Run  # noqa: E402
from studio.workspace import Workspace  # noqa: E402

VARIANTS: dict[str, list[str]] = {kind: [f"method={{kind: {kind}}}"] for kind in METHODS} | {
    "lora, DoRA": ["method={kind: lora, use_dora: true}"],
    "lora, rsLoRA": ["method={kind: lora, use_rslora: true, lora_alpha: 8}"],
    "lora, PiSSA": ["method={kind: lora, init_lora_weights: pissa}", "train.learning_rate=5e-4"],
    "lora, OLoRA": ["method={kind: lora, init_lora_weights: olora}", "train.learning_rate=5e-4"],
    "lora, EVA": ["method={kind: lora, init_lora_weights: eva}"],
    "lora, LoRA+": ["method={kind: lora, loraplus_lr_ratio: 4}", "train.learning_rate=5e-4"],
    "bottleneck, Pfeiffer": ["method={kind: bottleneck, placement: pfeiffer}"],
    "prompt_tuning, text": [
        "method={kind: prompt_tuning, prompt_tuning_init: text, "
        "prompt_tuning_init_text: 'Triage the support ticket. Answer with one line of JSON.'}"
    ],
}
COLUMNS = ("method", "trainable", "peak memory", "tokens/s", "validation loss", "exact match")


def settings(name: str) -> list[str]:
    """The overrides of a variant, with the learning rate that its method suggests where none is set."""
    own = VARIANTS[name]
    rate = METHODS[name.split(",")[0]].suggested
    return own if any("learning_rate" in o for o in own) else [*own, f"train.learning_rate={rate:g}"]


def measure(name: str) -> dict:
    """Train and score one variant."""
    command = [sys.executable, "app.py", "train", "recipes/quickstart.yaml", *settings(name)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{name}: the run failed")
    run = Run.open(done.stdout.split()[-1])
    scores = json.loads(
        subprocess.run(
            [sys.executable, "app.py", "evaluate", run.id, "--json"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
    )
    events = run.events()
    started = next(e for e in events if e["kind"] == "started")
    rates = [e["tokens_per_second"] for e in events if e["kind"] == "step" and e["tokens_per_second"]]
    return {
        "settings": settings(name),
        "run": run.id,
        "trainable_parameters": started["trainable_parameters"],
        "peak_memory_bytes": events[-1]["peak_memory_bytes"],
        "tokens_per_second": statistics.median(rates),
        "eval_loss": events[-1]["eval_loss"],
        "base_exact_match": scores["base"]["exact_match"],
        "exact_match": scores["tuned"]["exact_match"],
        "rows": scores["rows"],
        "seconds": round(events[-1]["time"] - started["time"]),
    }


def table(results: dict[str, dict]) -> str:
    """The results as Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " | settings |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for name in VARIANTS:
        if name in results:
            r = results[name]
            lines.append(
                f"| {name} | {r['trainable_parameters']:,} | {r['peak_memory_bytes'] / 1e9:.1f} GB "
                f"| {r['tokens_per_second']:.0f} | {r['eval_loss']:.4f} | {r['exact_match']:.1%} "
                f"| `{' '.join(r['settings'])}` |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=[], help=f"some of: {', '.join(VARIANTS)}")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    kept = Workspace.current().folder("benchmarks") / "methods.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    if not arguments.table:
        os.environ["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE", "1")
        for name in arguments.variants or VARIANTS:
            if results.get(name, {}).get("settings") != settings(name):
                results[name] = measure(name)
                kept.write_text(json.dumps(results, indent=1))
                print(table({name: results[name]}).splitlines()[-1], flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
