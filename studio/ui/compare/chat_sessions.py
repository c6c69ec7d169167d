"""The conversations of the Compare tab: what was asked and answered in each pane, and how answers come in."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from studio.errors import StudioError, StudioErrors
from studio.recipe import Recipe
from studio.ui.compare import contrast
from studio.ui.context import AppContext

LEAST, MOST = 2, 4  # panes
_REDRAW_SECONDS = 0.08
_DRAWING_SHARE = 0.25  # of the time may go into drawing
_SYSTEM = "system"

Panes = list[list[dict]]


def first_user_turn(recipe: Recipe) -> tuple[str, str]:
    """(system message, user message) of a held-out row of the recipe's data, another one each time.

    Raises:
        StudioError: the data cannot be read, or is plain text.
    """
    import random

    from studio.data import load_evaluation

    rows = load_evaluation(recipe.data, recipe.train.seed)
    messages = rows[random.randrange(len(rows))]["messages"]
    if messages is None:
        raise StudioError("The data of this run is plain text without prompts.", "Write a prompt yourself.")
    system = next((m["content"] for m in messages if m["role"] == _SYSTEM), "")
    return system, next((m["content"] for m in messages if m["role"] == "user"), "")


def asked(history: Panes, prompt: str | None) -> Panes:
    """All histories with a prompt at the end. What only the newest answer keeps goes from the others.

    Raises:
        StudioError: the prompt is empty.
    """
    if not prompt or not prompt.strip():
        raise StudioError("The prompt is empty.", "Write a message first.")
    question = {"role": "user", "content": prompt.strip()}
    return [[*(_without(turn, "odds") for turn in turns), question] for turns in history]


def asked_again(history: Panes) -> Panes:
    """All histories up to the last prompt, whether it was answered or not.

    Raises:
        StudioError: there is none yet.
    """
    if not any(turn["role"] == "user" for turn in history[0]):
        raise StudioError("There is no answer to write again yet.", "Write a message first.")
    last = sum(turn["role"] == "user" for turn in history[0]) - 1
    question = [turn for turn in history[0] if turn["role"] == "user"][last]["content"]
    return asked_from(history, last, question)


def asked_from(history: Panes, number: int, text: str) -> Panes:
    """All histories up to a prompt (by its number, from 0), which now says ``text``; what came after is gone.

    Raises:
        StudioError: there is no such prompt, or the text is empty.
    """
    return asked([turns[: _places(turns, number)[0]] for turns in history], text)


def corrected(history: Panes, pane: int, number: int, text: str) -> Panes:
    """The histories with the answer of a pane to a prompt (by its number) replaced; what came after is gone everywhere.

    Raises:
        StudioError: there is no such answer, or the text is empty.
    """
    if not text.strip():
        raise StudioError("The answer is empty.", "Write what the model should have said, or edit the prompt instead.")
    kept = [turns[: _places(turns, number)[1]] for turns in history]
    if not 0 <= pane < len(kept) or kept[pane][-1]["role"] != "assistant":
        raise StudioError("There is no such answer any more.", "Send the prompt again.")
    kept[pane][-1] = {"role": "assistant", "content": text, "stats": "edited"}
    return kept


def _places(turns: list[dict], number: int) -> tuple[int, int]:
    """Where a prompt begins in a history, and where the next one does."""
    starts = [at for at, turn in enumerate(turns) if turn["role"] == "user"]
    if not 0 <= number < len(starts):
        raise StudioError("There is no such prompt any more.", "Write a message.")
    return starts[number], (starts[number + 1] if number + 1 < len(starts) else len(turns))


def _without(turn: dict, *names: str) -> dict:
    return {name: value for name, value in turn.items() if name not in names}


def sampling_of(settings: dict[str, Any]) -> Any:
    """The settings of the form as ``studio.inference.Sampling``.

    Raises:
        StudioError: one is out of its bounds.
    """
    from studio.inference import Sampling

    whole = ("top_k", "max_new_tokens", "seed")
    names = ("temperature", "top_p", "min_p", "repetition_penalty", *whole)
    given = {name: settings[name] for name in names if settings.get(name) is not None}
    return Sampling(**{name: _number(name, value, name in whole) for name, value in given.items()})


def _number(name: str, value: Any, whole: bool) -> float:
    try:
        return int(float(value)) if whole else float(value)
    except (ValueError, OverflowError) as error:
        raise StudioError(
            f"{name} is {str(value)[:40]!r}, which is no number.", "Write a number.", field=name
        ) from error


def answer(
    context: AppContext,
    stops: Sequence[threading.Event],
    targets: Sequence[Any],
    systems: Sequence[str | None],
    history: Panes,
    samplings: Sequence[Any],
) -> Iterator[tuple[Panes, bool]]:
    """Let all models answer the last user turn of their histories, each at its own pace.

    Where one of them fails, its history has no answer, and the user turn carries the ``error``: it is shown, but it is
    not put before the model again.

    Args:
        stops: one a pane; set it to end that answer.
        targets: one a pane (``studio.inference.Target``).
        systems: the system message of each pane; empty leaves it to the chat template.

    Yields:
        (the histories as they are, whether all have ended), a few times a second and at the end.

    Raises:
        StudioError: none of them can answer.
    """
    messages = []
    for system, turns in zip(systems, history, strict=True):
        start = [{"role": _SYSTEM, "content": system}] if system and system.strip() else []
        messages.append(start + [{"role": t["role"], "content": t["content"]} for t in turns if not t.get("error")])
    writing = [{"role": "assistant", "content": "", "writing": True, "opening": True, "odds": []} for _ in targets]
    turns = [[*asked, answer] for asked, answer in zip(history, writing, strict=True)]
    yield turns, False
    held, errors = [0.0] * len(targets), {}
    drawn, wait = time.monotonic(), _REDRAW_SECONDS
    for pane, piece in _pieces(context, targets, messages, samplings, stops):
        own = writing[pane]
        own["opening"] = False
        own["content"] += piece.text
        own["stats"] = stats(piece)
        held[pane] = contrast.tally(own["odds"], held[pane], piece.text, piece.log_probability)
        if piece.finished:
            own["writing"] = False
        if piece.error:
            errors[pane] = piece.error
            asked = {**history[pane][-1], "error": (piece.error.what, piece.error.fix)}
            turns[pane] = [*history[pane][:-1], asked]
        if time.monotonic() - drawn > wait:
            drawn = time.monotonic()
            yield turns, False
            wait = max(_REDRAW_SECONDS, (time.monotonic() - drawn) / _DRAWING_SHARE) if _REDRAW_SECONDS > 0 else -1.0
            drawn = time.monotonic()
    if len(errors) == len(targets):
        different = {(error.what, error.fix): error for error in errors.values()}
        raise StudioErrors(list(different.values()))
    yield turns, True


def _pieces(
    context: AppContext, targets: Sequence[Any], messages: list, samplings: Sequence, stops: Sequence
) -> Iterator:
    from studio.inference import stream_many

    if context.on_zero_gpu:
        return context.on_zero_gpu(targets, messages, samplings, stops)
    handles = [lambda target=target: context.engine.open(target) for target in targets]
    return stream_many(handles, messages, samplings, stops)


def stats(piece: Any) -> str:
    """Tokens, tokens a second, and the time to the first one, in words."""
    if not piece.new_tokens or piece.first_token_seconds is None:
        return ""
    after = piece.seconds - piece.first_token_seconds
    speed = f" · {(piece.new_tokens - 1) / after:.1f} tokens/s" if after > 0 and piece.new_tokens > 1 else ""
    ends = {"length": " · cut at the longest answer", "stopped": " · stopped"}.get(piece.finished or "", "")
    counted = f"{piece.new_tokens} token{'s' * (piece.new_tokens != 1)}"
    return f"{counted}{speed} · first after {piece.first_token_seconds:.2f} s{ends}"


def read_history(text: str | None, count: int = LEAST) -> Panes:
    """The histories of so many panes from the hidden field; empty ones if it is not what we wrote."""
    try:
        history = json.loads(text or "[]")
    except (ValueError, TypeError, RecursionError):
        history = []
    whole = isinstance(history, list) and len(history) == count and all(map(_is_conversation, history))
    return history if whole else [[] for _ in range(count)]


def _is_conversation(turns: Any) -> bool:
    return isinstance(turns, list) and all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in turns
    )
