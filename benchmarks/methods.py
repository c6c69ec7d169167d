"""Every method on the built-in model and data, one after the other: what it trains, costs and learns.

    python benchmarks/methods.py                 # all of them; about two to five minutes each on two cores
    python benchmarks/methods.py lora oft        # some; those that are done already are not run again
    python benchmarks/methods.py --table         # print the table of docs/methods.md from what is done

Results are kept in the workspace (benchmarks/methods.json), with the recipe that they are of. Each is trained by
`python app.py train` with the recipe that the table names, and scored by `python app.py evaluate`.
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

from studio.recipe import Recipe  # noqa: E402
from studio.runs import Run  # noqa: E402
from studio.workspace import Workspace  # noqa: E402

LORA = [
    "method.r=16",
    "method.lora_alpha=32",
    "train.num_train_epochs=1.5",
    "train.learning_rate=1e-3",
]
VARIANTS: dict[str, tuple[str, list[str]]] = {"lora": ("quickstart", LORA)} | {
    path.stem: (f"methods/{path.stem}", []) for path in sorted((ROOT / "recipes" / "methods").glob("*.yaml"))
}
VARIANTS |= {
    "lora, rsLoRA": ("quickstart", [*LORA, "method.use_rslora=true", "method.lora_alpha=8"]),
    "lora, PiSSA": ("quickstart", [*LORA, "method.init_lora_weights=pissa", "train.learning_rate=5e-4"]),
    "lora, OLoRA": ("quickstart", [*LORA, "method.init_lora_weights=olora", "train.learning_rate=5e-4"]),
    "lora, EVA": ("quickstart", [*LORA, "method.init_lora_weights=eva"]),
    "lora, LoRA+": ("quickstart", [*LORA, "method.loraplus_lr_ratio=4", "train.learning_rate=5e-4"]),
    "bottleneck, Pfeiffer": ("methods/bottleneck", ["method.placement=pfeiffer"]),
    "prompt-tuning, random": ("methods/prompt-tuning", ["method.prompt_tuning_init=random"]),
}
COLUMNS = ("method", "trainable", "peak memory", "tokens/s", "validation loss", "exact match", "recipe")


def settings(name: str) -> dict:
    """The whole recipe of a variant, as plain values."""
    recipe, overrides = VARIANTS[name]
    return Recipe.load(ROOT / "recipes" / f"{recipe}.yaml", overrides).model_dump(mode="json")


def command_of(name: str) -> str:
    """What its run was started with."""
    recipe, overrides = VARIANTS[name]
    return " ".join([f"recipes/{recipe}.yaml", *overrides])


def measure(name: str) -> dict:
    """Train and score one variant."""
    command = [sys.executable, "app.py", "train", *command_of(name).split()]
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
    lines = ["| " + " | ".join(COLUMNS) + " |", "| --- " * len(COLUMNS) + "|"]
    for name in VARIANTS:
        if name in results:
            r = results[name]
            lines.append(
                f"| {name} | {r['trainable_parameters']:,} | {r['peak_memory_bytes'] / 1e9:.1f} GB "
                f"| {r['tokens_per_second']:.0f} | {r['eval_loss']:.4f} | {r['exact_match']:.1%} "
                f"| `{command_of(name)}` |"
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
