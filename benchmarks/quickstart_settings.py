"""Choose the quickstart's settings on a validation split of its training rows, and measure the shipped recipe.

    python benchmarks/quickstart_settings.py validate                 # every candidate, several seeds, validation rows
    python benchmarks/quickstart_settings.py validate "r32 1e-3"      # some candidates
    python benchmarks/quickstart_settings.py test --seeds 0 1 2       # the shipped recipe on the 60 test tickets

`validate` holds out 60 of the 300 training rows, other ones for each seed, trains on the rest and scores the held-out
rows alone. It never reads `test.jsonl`, so the score that `test` reports is of rows that no setting was chosen by.
Results are kept in the workspace (benchmarks/quickstart.json) under the settings that they belong to; what is there
already is not run again. Overrides such as `--set model.dtype=float32` are put on every recipe.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from studio.recipe import Recipe  # noqa: E402
from studio.runs import Run  # noqa: E402
from studio.workspace import Workspace  # noqa: E402

RECIPE = ROOT / "recipes" / "quickstart.yaml"
VALIDATION_ROWS = 60
VALIDATION = [f"data.holdout_rows={VALIDATION_ROWS}", "data.eval_split=auto"]
QUIET = ["train.eval_steps=1000", "train.save_steps=0", "train.sample_count=0"]  # changes no number of the training
EPOCH = ["train.num_train_epochs=1"]


def lora(rank: int, learning_rate: float) -> list[str]:
    return [f"method.r={rank}", f"method.lora_alpha={2 * rank}", f"train.learning_rate={learning_rate}"]


CANDIDATES: dict[str, list[str]] = {
    "r32 2e-3, 0.9 epochs": [*lora(32, 2e-3), "train.num_train_epochs=0.9"],
    "r32 2e-3": [*lora(32, 2e-3), *EPOCH],
    "r32 1.5e-3": [*lora(32, 1.5e-3), *EPOCH],
    "r32 1e-3": [*lora(32, 1e-3), *EPOCH],
    "r64 1e-3": [*lora(64, 1e-3), *EPOCH],
    "r16 2e-3": [*lora(16, 2e-3), *EPOCH],
    "r32 1e-3, batch 3": [*lora(32, 1e-3), *EPOCH, "train.per_device_train_batch_size=3"],
    "r32 1e-3, batch 2": [*lora(32, 1e-3), *EPOCH, "train.per_device_train_batch_size=2"],
}


def measure(overrides: list[str]) -> dict[str, Any]:
    """Train a recipe and score the tuned model alone (the base answers at length, and none of the rows right)."""
    command = [sys.executable, "app.py", "train", str(RECIPE.relative_to(ROOT)), *overrides]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"The run failed: {' '.join(command)}")
    run = Run.open(done.stdout.split()[-1])
    events = run.events()
    started = next(e for e in events if e["kind"] == "started")
    return {
        "run": run.id,
        "dtype": run.recipe.resolved.dtype,
        "steps": events[-1].get("step"),
        "seconds": round(events[-1]["time"] - started["time"], 1),
        "peak_memory_bytes": events[-1].get("peak_memory_bytes"),
        "validation_loss": events[-1].get("eval_loss"),
        **score(run),
    }


def score(run: Run) -> dict[str, Any]:
    """The rows that `evaluate` scores, answered by the tuned model: how many, and the share of exact matches."""
    from studio.data import load_evaluation
    from studio.evaluation.metrics import exact_match
    from studio.inference import Engine, Sampling, Target, generate_batch

    recipe = run.recipe
    rows = list(load_evaluation(recipe.data, recipe.train.seed))
    handle = Engine().open(Target.run(run.id))
    sampling = Sampling(temperature=0, max_new_tokens=64)
    outputs = generate_batch(handle, [row["messages"][:-1] for row in rows], sampling)
    correct = [exact_match(out, row["messages"][-1]["content"]) for out, row in zip(outputs, rows, strict=True)]
    return {"rows": len(rows), "exact_match": sum(correct) / len(correct)}


def kept_results() -> tuple[Path, dict[str, Any]]:
    path = Workspace.current().folder("benchmarks") / "quickstart.json"
    return path, json.loads(path.read_text()) if path.exists() else {}


def settings(overrides: list[str]) -> str:
    """The whole recipe as a key."""
    return json.dumps(Recipe.load(RECIPE, overrides).model_dump(mode="json"), sort_keys=True)


def measured(overrides: list[str]) -> dict[str, Any]:
    """A result, from the workspace if these very settings have been measured."""
    path, results = kept_results()
    key = settings(overrides)
    if key not in results:
        result = measure(overrides)
        results = kept_results()[1] | {key: result}
        path.write_text(json.dumps(results, indent=1))
    return results[key]


def line(name: str, results: list[dict[str, Any]]) -> str:
    """A line of the table: mean and range over the seeds."""

    def span(key: str, form: str) -> str:
        values = [r[key] for r in results if r[key] is not None]
        return f"{statistics.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})" if values else ""

    steps = " ".join(sorted({str(r["steps"]) for r in results}))
    return (
        f"| {name} | {steps} | {span('exact_match', '.1%')} | {span('validation_loss', '.4f')} "
        f"| {span('seconds', '.0f')} | {results[0]['dtype']} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("validate", "test"))
    parser.add_argument("candidates", nargs="*", help=f"some of: {', '.join(CANDIDATES)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="overrides on every recipe")
    arguments = parser.parse_args()
    validating = arguments.what == "validate"
    chosen = {name: CANDIDATES[name] for name in arguments.candidates or CANDIDATES} if validating else {"shipped": []}
    print("| settings | steps | exact match | validation loss | seconds | format |\n" + "| --- " * 6 + "|", flush=True)
    for name, overrides in chosen.items():
        results = []
        for seed in arguments.seeds:
            more = [*VALIDATION, *QUIET] if validating else []
            results.append(measured([*overrides, *more, f"train.seed={seed}", *arguments.set]))
            print(f"  {name}, seed {seed}: {results[-1]}", file=sys.stderr, flush=True)
        print(line(name, results), flush=True)


if __name__ == "__main__":
    main()
