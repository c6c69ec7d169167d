"""Two panes that stream at once beside plain ``generate``, one model after the other, for the base and a run on it.

    python benchmarks/streaming.py RUN                    # 3 turns, 96 tokens each

Each turn lets both models answer the same prompt by transformers' ``generate`` with a streamer, one after the other,
and then in two panes at once, as the Compare tab does. Prints one JSON document with the medians: tokens a second in
all, and the time to the first token of the pane that is first, of the other one, and of plain ``generate`` (the mean of
both models, each by itself).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from studio.inference import Engine, Sampling, Target  # noqa: E402
from studio.inference.generate import prompt_ids  # noqa: E402
from studio.inference.stream import stream_many  # noqa: E402
from studio.runs import Run  # noqa: E402

PROMPT = [{"role": "user", "content": "Tell me a long story about a lighthouse keeper and the sea."}]


class Clock:
    """A streamer that notes when the first new token came."""

    def __init__(self, start: float):
        self.start, self.first, self.count = start, None, -1

    def put(self, ids: torch.Tensor) -> None:
        self.count += 1  # the prompt comes first
        if self.count == 1:
            self.first = time.perf_counter() - self.start

    def end(self) -> None:
        """Nothing is left to be done."""


def plain(handle, tokens: int) -> tuple[float, float]:
    """Seconds in all, and to the first token, of transformers' own generate."""
    ids = torch.tensor([prompt_ids(handle, PROMPT)])
    with handle.weights.use_adapter(handle.adapter):
        clock = Clock(time.perf_counter())
        handle.weights.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens,
            streamer=clock,
        )  # fmt: skip
        return time.perf_counter() - clock.start, clock.first


def panes(handles: list, tokens: int) -> tuple[float, int, list[float]]:
    """Seconds in all, tokens, and the time to the first token of each pane in the order of their coming."""
    start, count = time.perf_counter(), 0
    first: dict[int, float] = {}
    for pane, piece in stream_many(handles, [PROMPT] * len(handles), Sampling(temperature=0, max_new_tokens=tokens)):
        first.setdefault(pane, time.perf_counter() - start)
        count += piece.new_tokens if piece.finished else 0
    return time.perf_counter() - start, count, list(first.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96)
    options = parser.parse_args()
    run, engine = Run.open(options.run), Engine()
    handles = [engine.open(Target.base_of(run)), engine.open(Target.run(run.id))]
    for handle in handles:
        plain(handle, 8)
    alone, first_alone, together, first_together, second_together = [], [], [], [], []
    for _ in range(options.turns):
        measured = [plain(handle, options.tokens) for handle in handles]
        alone.append(len(handles) * options.tokens / sum(seconds for seconds, _ in measured))
        first_alone.append(statistics.mean(first for _, first in measured))
        seconds, count, first = panes(handles, options.tokens)
        together.append(count / seconds)
        first_together.append(first[0])
        second_together.append(first[1])
    result = {
        "plain_tokens_per_second": round(statistics.median(alone), 2),
        "panes_tokens_per_second": round(statistics.median(together), 2),
        "ratio": round(statistics.median(together) / statistics.median(alone), 3),
        "plain_first_token_s": round(statistics.median(first_alone), 4),
        "panes_first_token_s": round(statistics.median(first_together), 4),
        "panes_second_pane_s": round(statistics.median(second_together), 4),
        "first_token_ratio": round(statistics.median(first_together) / statistics.median(first_alone), 3),
        "second_pane_ratio": round(statistics.median(second_together) / statistics.median(first_alone), 3),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
