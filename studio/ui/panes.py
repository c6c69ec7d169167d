"""The two panes of the Compare tab: how they look, and how their answers come in."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from html import escape
from typing import Any

from studio.errors import StudioError, StudioErrors
from studio.recipe import Recipe
from studio.ui import views
from studio.ui.desk import Desk
from studio.ui.preview import bubble

PANES = ("base", "tuned")
_REDRAW_SECONDS = 0.08
_SYSTEM = "system"


def draw(base: list[dict], tuned: list[dict], run_id: str, base_id: str) -> str:
    """Both panes. A turn is ``{"role", "content"}``, with ``stats`` and ``writing`` for an answer.

    A user turn that could not be answered has the reason as its ``error``.
    """
    names = (f"● Base{f' · {base_id}' if base_id else ''}", f"◆ Tuned{f' · {run_id}' if run_id else ''}")
    cells = []
    for kind, name, turns in zip(PANES, names, (base, tuned), strict=True):
        body = "".join(_turn(turn) for turn in turns if turn["role"] != _SYSTEM)
        absent = kind == "tuned" and not run_id
        empty = "Choose a tuned model above, or launch a training first." if absent else "Its answers appear here."
        body = body or f'<div class="note">{empty}</div>'
        cells.append(
            f'<section class="pane {kind}" aria-label="{kind} model"><header>'
            f'<span class="who" title="{escape(name)}">{escape(name)}</span></header>'
            f'<div class="turns">{body}</div></section>'
        )
    return f'<div class="panes">{"".join(cells)}</div>'


def _turn(turn: dict) -> str:
    text = bubble(turn["role"], turn["content"], " caret" if turn.get("writing") else "")
    if turn.get("error"):
        return text + views.message("bad", *turn["error"])
    return text + (f'<div class="stats">{escape(turn["stats"])}</div>' if turn.get("stats") else "")


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


def asked(history: list[list[dict]], prompt: str | None) -> list[list[dict]]:
    """Both histories with a prompt for both at the end.

    Raises:
        StudioError: the prompt is empty.
    """
    if not prompt or not prompt.strip():
        raise StudioError("The prompt is empty.", "Write a message first.")
    return [[*turns, {"role": "user", "content": prompt.strip()}] for turns in history]


def asked_again(history: list[list[dict]]) -> list[list[dict]]:
    """Both histories up to the last prompt, whether it was answered or not.

    Raises:
        StudioError: there is none yet.
    """
    if not history[0]:
        raise StudioError("There is no answer to write again yet.", "Write a message first.")
    again = []
    for turns in history:
        last = max(i for i, turn in enumerate(turns) if turn["role"] == "user")
        again.append([*turns[:last], {"role": "user", "content": turns[last]["content"]}])
    return again


def answer(
    desk: Desk,
    stop: threading.Event,
    run_id: str | None,
    system: str | None,
    history: list[list[dict]],
    sampling: dict[str, Any],
) -> Iterator[tuple[str, list[list[dict]] | None, str]]:
    """Let both models answer the last user turn of their histories.

    Where one of them fails, its history has no answer, and the user turn carries the ``error``: it is shown, but it is
    not put before the model again.

    Args:
        stop: set it to end both answers.

    Yields:
        (the panes as HTML, the histories once both have answered and None before, a notice as HTML), a few times a
        second and at the end.

    Raises:
        StudioError: neither of them can answer.
    """
    from studio.inference import Sampling, Target, stream_many

    if not run_id:
        raise StudioError("No tuned model is chosen.", "Train one first.")
    settings = Sampling(
        temperature=float(sampling["temperature"]),
        top_p=float(sampling["top_p"]),
        top_k=int(sampling["top_k"]),
        repetition_penalty=float(sampling["repetition_penalty"]),
        max_new_tokens=int(sampling["max_new_tokens"]),
        seed=int(sampling["seed"]),
    )
    base, tuned = Target.pair(run_id)
    base_id = base.model.id
    yield draw(*history, run_id, base_id), None, views.working("Loading the models (only the first time)")
    handles = [desk.engine.open(base), desk.engine.open(tuned)]
    start = [{"role": _SYSTEM, "content": system}] if system and system.strip() else []
    messages = [
        start + [{"role": t["role"], "content": t["content"]} for t in turns if not t.get("error")] for turns in history
    ]
    writing = [{"role": "assistant", "content": "", "writing": True} for _ in PANES]
    turns = [[*asked, answer] for asked, answer in zip(history, writing, strict=True)]
    yield draw(*turns, run_id, base_id), None, ""
    drawn = time.monotonic()
    errors: dict[int, StudioError] = {}
    for pane, piece in stream_many(handles, messages, settings, stop):
        writing[pane]["content"] += piece.text
        writing[pane]["stats"] = _stats(piece)
        if piece.finished:
            writing[pane]["writing"] = False
        if piece.error:
            errors[pane] = piece.error
            asked = {**history[pane][-1], "error": (piece.error.what, piece.error.fix)}
            turns[pane] = [*history[pane][:-1], asked]
        if time.monotonic() - drawn > _REDRAW_SECONDS:
            drawn = time.monotonic()
            yield draw(*turns, run_id, base_id), None, ""
    if len(errors) == len(PANES):
        different = {(error.what, error.fix): error for error in errors.values()}
        raise StudioErrors(list(different.values()))
    yield draw(*turns, run_id, base_id), turns, ""


def _stats(piece: Any) -> str:
    if not piece.new_tokens or piece.first_token_seconds is None:
        return ""
    after = piece.seconds - piece.first_token_seconds
    speed = f" · {(piece.new_tokens - 1) / after:.1f} tokens/s" if after > 0 and piece.new_tokens > 1 else ""
    ends = {"length": " · cut at the longest answer", "stopped": " · stopped"}.get(piece.finished or "", "")
    return f"{piece.new_tokens} tokens{speed} · first after {piece.first_token_seconds:.2f} s{ends}"


def read_history(text: str | None) -> list[list[dict]]:
    """The two histories from the hidden field; empty ones if it is not what we wrote."""
    try:
        history = json.loads(text or "[]")
    except ValueError:
        history = []
    return history if isinstance(history, list) and len(history) == 2 else [[], []]
