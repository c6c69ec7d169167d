"""The memory of four panes over one base: the base, and three adapters on it.

    python benchmarks/panes_memory.py RUN RUN RUN         # tuned adapters of the same base

Prints what the process holds (resident memory, above what it holds with everything imported) after each pane is opened
and has answered, beside the bytes of the base and of the adapters. One JSON document.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from studio.inference import Engine, Sampling, Target, stream  # noqa: E402
from studio.runs import Run  # noqa: E402
from studio.training.memory_monitor import give_back_at_once, resident_bytes  # noqa: E402

PROMPT = [{"role": "user", "content": "Write a haiku about programming."}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    options = parser.parse_args()
    give_back_at_once()
    runs = [Run.open(name) for name in options.runs]
    from peft import PeftModel  # noqa: F401  imported before the first measurement

    import studio.inference.generate  # noqa: F401

    engine, found = Engine(), []
    before = resident_bytes()
    for target in (Target.base_of(runs[0]), *(Target.run(run.id) for run in runs)):
        handle = engine.open(target)
        list(stream(handle, PROMPT, Sampling(temperature=0, max_new_tokens=16)))
        gc.collect()
        held = engine.loaded()
        found.append(
            {
                "pane": target.name,
                "method": "base" if target.name.startswith("base") else Run.open(target.name).recipe.method.kind,
                "copies_of_weights": len(held),
                "weights_and_adapters_mb": round(sum(entry["bytes"] for entry in held) / 1e6, 1),
                "resident_mb": round((resident_bytes() - before) / 1e6, 1),
            }
        )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
