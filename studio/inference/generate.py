"""transformers' ``generate``: a conversation in, text out, private random numbers, a way to stop. Loads torch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
)

from studio.data.encode import encode_prompt
from studio.errors import StudioError
from studio.inference.detokenize import TextSoFar
from studio.inference.engine import Handle
from studio.inference.token_sampling import processors
from studio.inference.types import Piece, Sampling


def generate_streaming(
    handle: Handle,
    messages: list[dict],
    sampling: Sampling,
    stopped: Callable[[], bool],
    emit: Callable[[Piece], None],
) -> None:
    """Generate one answer and hand it out piece by piece; blocks until it has ended.

    Raises:
        StudioError: the template refuses the conversation, it does not fit the context, or memory ran out.
    """
    start = time.perf_counter()
    prompt = prompt_ids(handle, messages)
    room = room_for_answer(handle, len(prompt), sampling.max_new_tokens)
    with _turn(stopped) as over:
        out = _Streamer(TextSoFar(lambda ids: decode(handle, ids)), start, emit, over)
        if not stopped():
            inputs = torch.tensor([prompt])
            run_generate(handle, inputs, torch.ones_like(inputs), sampling, room, stopped, streamer=out)
    ended = bool(out.tokens) and out.tokens[-1] in handle.stop_ids
    out.finish("end" if ended else "length" if len(out.tokens) >= room else "stopped")


_READING = threading.Lock()
_PATIENCE_SECONDS = 1.0


@contextmanager
def _turn(stopped: Callable[[], bool]) -> Iterator[Callable[[], None]]:
    """One prompt is read at a time, until its first token is out: two at once would take each other's cores, and both
    first tokens would come when the second one is ready. Yields what gives the turn to the next. Nobody waits longer
    than a moment for a slow one."""
    mine, patience = False, time.perf_counter() + _PATIENCE_SECONDS
    while not (mine or stopped()) and time.perf_counter() < patience:
        mine = _READING.acquire(timeout=0.05)

    def over() -> None:
        nonlocal mine
        if mine:
            mine = False
            _READING.release()

    try:
        yield over
    finally:
        over()


def prompt_ids(handle: Handle, messages: list[dict]) -> list[int]:
    """The tokens of a conversation up to where the model's answer begins, tokenised as the encoder of training does.

    Raises:
        StudioError: the chat template refuses the conversation.
    """
    assert messages, "a conversation has at least one message"
    with handle.weights.tokenizer_lock:
        try:
            return encode_prompt(handle.tokenizer, messages, special_tokens_in_text=handle.special_tokens_in_text)
        except StudioError as error:
            raise StudioError(
                f"{handle.name}: {error.what}",
                "Start a new conversation, or leave out the system message.",
                code=error.code,
            ) from error


def room_for_answer(handle: Handle, prompt_tokens: int, max_new_tokens: int) -> int:
    """How many tokens the answer may have: ``max_new_tokens``, or what the context has left.

    Raises:
        StudioError: nothing is left.
    """
    if handle.context_length is None:
        return max_new_tokens
    room = handle.context_length - prompt_tokens
    if room < 1:
        raise StudioError(
            f"The conversation has {prompt_tokens:,} tokens and {handle.name} takes {handle.context_length:,} "
            "together with the answer.",
            "Shorten the message, or start a new conversation.",
        )
    return min(max_new_tokens, room)


def decode(handle: Handle, ids: list[int]) -> str:
    """Tokens as text, without special tokens."""
    return handle.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


_STEERING = (
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
    "sequence_bias",
    "no_repeat_ngram_size",
    "min_new_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "guidance_scale",
)


def steered(model: Any) -> bool:
    """Whether the model's own generation settings make greedy answers differ from its likeliest tokens."""
    return any(getattr(model.generation_config, name, None) for name in _STEERING)


def run_generate(
    handle: Handle,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    sampling: Sampling,
    max_new_tokens: int,
    stopped: Callable[[], bool],
    streamer: Any = None,
    shared: int = 0,
) -> torch.Tensor:
    """Prompts and answers as one tensor (batch, length).

    Args:
        input_ids, attention_mask: (batch, prompt), padded on the left or behind what is shared.
        shared: how many tokens at their beginning are the same in all rows, and are read once.

    Raises:
        StudioError: memory ran out.
    """
    weights = handle.weights
    settings = GenerationConfig(
        do_sample=False,  # the drawing is done by _Draw, see there
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        repetition_penalty=1.0,  # applied by processors, after the model's own numbers were looked at
        max_new_tokens=max_new_tokens,
        min_length=0,
        eos_token_id=sorted(handle.stop_ids) or None,
        pad_token_id=pad_id(handle),
        use_cache=True,
    )
    with weights.use_adapter(handle.adapter), _memory(handle):
        read = {}
        if shared:
            with torch.no_grad():
                beginning = input_ids[:1, :shared].to(weights.device)
                cache = weights.model(input_ids=beginning, use_cache=True).past_key_values
            cache.batch_repeat_interleave(len(input_ids))
            read = {"past_key_values": cache}
        return weights.model.generate(
            input_ids.to(weights.device),
            **read,
            attention_mask=attention_mask.to(weights.device),
            generation_config=settings,
            logits_processor=processors(sampling, streamer.look if streamer else None),
            stopping_criteria=StoppingCriteriaList([_Stop(stopped)]),
            streamer=streamer,
        )


class _Stop(StoppingCriteria):
    def __init__(self, stopped: Callable[[], bool]):
        self._stopped = stopped

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self._stopped(), dtype=torch.bool, device=input_ids.device)


class _Streamer:
    """Takes tokens from ``generate`` (the prompt comes first) and emits pieces with text and times."""

    def __init__(
        self, text: TextSoFar, start: float, emit: Callable[[Piece], None], begun: Callable[[], None] = lambda: None
    ):
        self.tokens: list[int] = []
        self._text, self._start, self._emit, self._begun = text, start, emit, begun
        self._first: float | None = None
        self._prompt = True
        self._scores: torch.Tensor | None = None

    def look(self, scores: torch.Tensor) -> None:
        """Remember the model's scores for the next token: (1, vocabulary)."""
        self._scores = scores

    def put(self, ids: torch.Tensor) -> None:
        if self._prompt:
            self._prompt = False
            return
        new = ids.flatten().tolist()
        self.tokens += new
        if self._first is None:
            self._first = time.perf_counter() - self._start
        text = self._text.add(new)
        seconds, sure = time.perf_counter() - self._start, self._log_probability(new)
        self._emit(Piece(text, len(self.tokens), seconds, self._first, log_probability=sure))
        self._begun()

    def _log_probability(self, new: list[int]) -> float | None:
        """Of the one token that was taken last; one pass over the vocabulary.

        On a CPU through numpy: torch would wake a second team of workers for it, which gets in the way of the forward
        passes' own.
        """
        if self._scores is None or len(new) != 1:
            return None
        row = self._scores[0]
        if row.is_cuda:
            return min(0.0, float(row[new[0]] - row.logsumexp(dim=-1)))
        numbers = row.cpu().numpy()
        highest = numbers.max()
        return min(0.0, float(numbers[new[0]] - highest - np.log(np.exp(numbers - highest).sum())))

    def end(self) -> None:
        """Called by ``generate``; the last piece is emitted by :meth:`finish`, which knows why it ended."""

    def finish(self, reason: Any) -> None:
        seconds = time.perf_counter() - self._start
        self._emit(Piece(self._text.end(), len(self.tokens), seconds, self._first, finished=reason))


@contextmanager
def _memory(handle: Handle):
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise StudioError(
            f"{handle.name} ran out of memory on {handle.weights.device} while answering.",
            "Shorten the conversation, compare fewer models at once, or close what else uses the device.",
        ) from error


def pad_id(handle: Handle) -> int:
    """The token that fills a row up."""
    pad = handle.tokenizer.pad_token_id
    return pad if pad is not None else min(handle.stop_ids, default=0)
