"""Answers in batches: what reading a common beginning once is worth, and what a cache of fixed size would be.

    python benchmarks/batches.py [--prompts 40] [--tokens 32]

The built-in tickets with their system message (a few words), and with one of several hundred tokens, as it is in use.
Three ways in turns, each as often as ``--turns``: every prompt read whole; the common beginning read once; every prompt
whole with transformers' static cache, uncompiled. Prints medians of seconds, and whether the answers are the same.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from studio.data import load_conversations  # noqa: E402
from studio.inference import Engine, Sampling, batches  # noqa: E402
from studio.inference.generate import decode, prompt_ids  # noqa: E402
from studio.recipe import DataSpec  # noqa: E402

LONG = "Answer in one line. " + " ".join(f"Rule {n}: a ticket of kind {n} goes to desk {n % 7}." for n in range(24))


def in_batches(handle, conversations: list, sampling: Sampling, least: int) -> list[str]:
    """The studio's way; beginnings of fewer than ``least`` tokens are read with each prompt."""
    usual, batches._LEAST_SHARED = batches._LEAST_SHARED, least
    try:
        return batches.generate_batch(handle, conversations, sampling)
    finally:
        batches._LEAST_SHARED = usual


def static(handle, conversations: list, sampling: Sampling) -> list[str]:
    """One batch with keys and values in tensors of their final size."""
    prompts = [prompt_ids(handle, messages) for messages in conversations]
    width = max(map(len, prompts))
    inputs, mask = torch.zeros(2, len(prompts), width, dtype=torch.long)
    for line, prompt in enumerate(prompts):
        inputs[line, width - len(prompt) :] = torch.tensor(prompt)
        mask[line, width - len(prompt) :] = 1
    ends = sorted(handle.stop_ids)
    out = handle.weights.model.generate(
        inputs,
        attention_mask=mask,
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=ends[0],
        cache_implementation="static",
        disable_compile=True,
    )
    answers = []
    for ids in out[:, width:].tolist():
        end = next((place for place, token in enumerate(ids) if token in handle.stop_ids), len(ids))
        answers.append(decode(handle, ids[:end]))
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    handle = Engine().open("base:builtin/smollm2-135m-instruct")
    sampling = Sampling(temperature=0, max_new_tokens=options.tokens)
    asked = [row["messages"][:-1] for row in load_conversations(DataSpec())][: options.prompts]
    print(f"{options.prompts} prompts, {options.tokens} tokens, {handle.weights.model.dtype}")
    print("| prompts | whole | beginning once | static cache | same answers |\n| --- | --- | --- | --- | --- |")
    for name, system in (("as they are", None), ("with a long system message", LONG)):
        told = asked if system is None else [[{"role": "system", "content": system}, *m[-1:]] for m in asked]
        ways: list[Callable[[], list[str]]] = [
            lambda told=told: in_batches(handle, told, sampling, 10**9),
            lambda told=told: in_batches(handle, told, sampling, 16),
            lambda told=told: static(handle, told, sampling),
        ]
        seconds: list[list[float]] = [[] for _ in ways]
        answers: list[list[str]] = [[] for _ in ways]
        for _ in range(options.turns):
            for number, way in enumerate(ways):
                start = time.perf_counter()
                answers[number] = way()
                seconds[number].append(time.perf_counter() - start)
        same = [sum(a == b for a, b in zip(answers[0], other, strict=True)) for other in answers[1:]]
        cells = [f"{statistics.median(each):.1f} s" for each in seconds]
        print(f"| {name} | " + " | ".join(cells) + f" | {same[0]} and {same[1]} of {len(told)} |", flush=True)


if __name__ == "__main__":
    main()
