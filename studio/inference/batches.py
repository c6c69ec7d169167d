"""Answers to many conversations in batches, sorted by length, their common beginning read once. Loads torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from studio.inference.engine import Handle
from studio.inference.generate import decode, pad_id, prompt_ids, room_for_answer, run_generate
from studio.inference.types import Sampling
from studio.models.head import attends_plainly

_LEAST_SHARED = 16  # tokens; a pass over fewer costs more than it saves


def generate_batch(
    handle: Handle,
    conversations: list[list[dict]],
    sampling: Sampling,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    max_tokens: int = 8192,
) -> list[str]:
    """Answers to many conversations, in their order: sorted by length, padded on the left, in batches.

    What all prompts of a batch begin with, such as a system message, is read once, where the model allows it. In
    float32 they are those of one conversation at a time. In bfloat16 and float16 a batch rounds differently from a
    single row, so that where two tokens are almost equally likely the other one may be taken.

    Args:
        progress: called with (conversations done, conversations in total) after every batch.
        max_tokens: tokens at a time, prompts and longest answers together; at least one conversation.

    Raises:
        StudioError: a conversation is refused by the template or does not fit the context, or memory ran out.
    """
    answers = [""] * len(conversations)
    done = 0
    for batch in answer_batches(handle, conversations, sampling, max_tokens=max_tokens):
        for number, answer, _ in batch:
            answers[number] = answer
        done += len(batch)
        progress(done, len(answers))
    return answers


def answer_batches(
    handle: Handle, conversations: list[list[dict]], sampling: Sampling, *, max_tokens: int = 8192
) -> Iterator[list[tuple[int, str, int]]]:
    """What :func:`generate_batch` does, batch by batch: (number of the conversation, answer, its tokens) each."""
    prompts = [prompt_ids(handle, messages) for messages in conversations]
    waiting = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    while waiting:
        width = len(prompts[waiting[0]])
        room = room_for_answer(handle, width, sampling.max_new_tokens)
        count = max(1, max_tokens // (width + room))
        rows, waiting = waiting[:count], waiting[count:]
        shared = shared_beginning([prompts[row] for row in rows]) if _can_share(handle.weights.model) else 0
        inputs = torch.full((len(rows), width), pad_id(handle), dtype=torch.long)
        mask = torch.zeros_like(inputs)
        for line, row in enumerate(rows):  # the padding stands between what is shared and the rest
            rest = torch.tensor(prompts[row][shared:])
            inputs[line, :shared] = torch.tensor(prompts[row][:shared])
            inputs[line, width - len(rest) :] = rest
            mask[line, :shared] = mask[line, width - len(rest) :] = 1
        output = run_generate(handle, inputs, mask, sampling, room, lambda: False, shared=shared)
        batch = []
        for row, ids in zip(rows, output[:, width:].tolist(), strict=True):
            end = next((i for i, token in enumerate(ids) if token in handle.stop_ids), len(ids))
            batch.append((row, decode(handle, ids[:end]), end))
        yield batch


def shared_beginning(prompts: list[list[int]]) -> int:
    """How many tokens all prompts begin with; 0 if too few to pay. At least one token of each prompt is left."""
    if len(prompts) < 2:
        return 0
    first, last, least = min(prompts), max(prompts), min(map(len, prompts))
    count = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), least)
    count = min(count, least - 1)
    return count if count >= _LEAST_SHARED else 0


def _can_share(model: Any) -> bool:
    """Whether the beginning of several prompts may be read into one cache."""
    return attends_plainly(model) and getattr(model.config.get_text_config(), "use_cache", True)
