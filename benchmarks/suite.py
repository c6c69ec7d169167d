"""A prompt suite in batches beside the same prompts one at a time, for the base and the tuned model of a run.

    python benchmarks/suite.py RUN                        # 200 prompts, at most 64 tokens each
    python benchmarks/suite.py RUN --prompts 60 --tokens 32

Both ways are timed in turns in one process: a share of the prompts one at a time, then the same share in batches. Their
answers are compared to the letter. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from studio.evaluation.suite_run import run_suite  # noqa: E402
from studio.evaluation.suites import Prompt, Suite, builtin_suites, load_suite  # noqa: E402
from studio.inference import Engine, Sampling, Target, stream  # noqa: E402
from studio.runs import Run  # noqa: E402
from studio.workspace import Workspace  # noqa: E402

_SHARES = 4  # turns


def prompts(count: int) -> list[Prompt]:
    """The built-in suites' prompts, and sums until there are enough."""
    found = [p for name in builtin_suites() for p in load_suite(name).prompts]
    sums = (
        {"role": "user", "content": f"What is {n} plus {3 * n + 1}? Answer with the number alone."}
        for n in range(count)
    )
    found += [Prompt(f"sum-{number}", (message,)) for number, message in enumerate(sums)]
    return [Prompt(f"{number:04d}", p.messages) for number, p in enumerate(found[:count])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    run, engine = Run.open(options.run), Engine()
    sampling = Sampling(temperature=0, max_new_tokens=options.tokens)
    asked = prompts(options.prompts)
    result = {}
    for name, target in (("base", Target.base_of(run)), ("tuned", Target.run(run.id))):
        handle = engine.open(target)
        alone_seconds, batch_seconds, tokens, alike = 0.0, 0.0, 0, 0
        for share in range(_SHARES):
            part = asked[share::_SHARES]
            start = time.perf_counter()
            alone = {}
            for prompt in part:
                pieces = list(stream(handle, list(prompt.messages), sampling))
                alone[prompt.id] = "".join(piece.text for piece in pieces)
                tokens += pieces[-1].new_tokens
            alone_seconds += time.perf_counter() - start
            with tempfile.TemporaryDirectory() as folder:  # so that no answer is there already
                suite = Suite(f"benchmark-{Path(folder).name}", tuple(part))
                start = time.perf_counter()
                done = run_suite(suite, [target], engine, sampling=sampling)
                batch_seconds += time.perf_counter() - start
            for path in Workspace.current().folder("suites").glob(f"{suite.name}-*.jsonl"):
                path.unlink()
            alike += sum(done.answers[target.name][id].output == output for id, output in alone.items())
        result[name] = {
            "prompts": len(asked),
            "tokens": tokens,
            "one_at_a_time_s": round(alone_seconds, 1),
            "in_batches_s": round(batch_seconds, 1),
            "ratio": round(alone_seconds / batch_seconds, 2),
            "same_answers": alike,
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
