"""What a launch takes for its data, the first time and again: read, split, encode.

    python benchmarks/second_launch.py [--rows 100000]

Each way is a process of its own on one temporary workspace: nothing kept yet, everything kept, and nothing kept with
one process that encodes (``taskset`` to one core), which tells what the others are worth.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]


def launch(source: str, model: str) -> dict[str, float]:
    """Seconds of each part, as the worker does them."""
    from transformers import AutoTokenizer

    from studio.data import encode_once, load_conversations, split_conversations
    from studio.data.load import fingerprint
    from studio.recipe import DataSpec

    tokenizer = AutoTokenizer.from_pretrained(model)
    data = DataSpec(source=source, holdout=0.1)
    times = [time.perf_counter()]
    conversations = load_conversations(data)
    times.append(time.perf_counter())
    fingerprint(conversations)
    training, held_out = split_conversations(conversations, data, 0)
    times.append(time.perf_counter())
    examples = [encode_once(tokenizer, rows, data)[0] for rows in (training, held_out)]
    times.append(time.perf_counter())
    names = ("read", "fingerprint and split", "encode")
    found = dict(zip(names, (b - a for a, b in pairwise(times)), strict=True))
    return found | {"all": times[-1] - times[0], "rows": sum(map(len, examples))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--launch", nargs=2, help=argparse.SUPPRESS)  # data, model
    options = parser.parse_args()
    if options.launch:
        print(json.dumps(launch(*options.launch)))
        return
    from dataset_report import write_rows

    from studio.models.store import fetch
    from studio.recipe import ModelSpec

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "rows.jsonl"
        write_rows(path, options.rows)
        command = [sys.executable, __file__, "--launch", str(path), str(fetch(ModelSpec()))]
        on_one_core = ["taskset", "-c", "0", *command]
        ways = [("first", "one", command), ("again", "one", command), ("first, one core", "two", on_one_core)]
        print("| launch | read | fingerprint and split | encode | all |\n| --- | --- | --- | --- | --- |")
        for name, home, line in ways:
            environment = os.environ | {"STUDIO_HOME": str(Path(scratch) / home), "TOKENIZERS_PARALLELISM": "false"}
            out = subprocess.run(line, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
            found = json.loads(out.splitlines()[-1])
            print(f"| {name} | " + " | ".join(f"{found[k]:.1f} s" for k in list(found)[:4]) + " |", flush=True)


if __name__ == "__main__":
    main()
