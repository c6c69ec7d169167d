"""The same prompts to several models, as plain values."""

from __future__ import annotations

from typing import Any

from studio.errors import StudioError
from studio.inference.engine import Engine
from studio.inference.stream import stream
from studio.inference.types import Piece, Sampling, Target
from studio.jobs.progress import Report, quiet
from studio.models.processor import computing


def compare(
    engine: Engine,
    targets: list[Target | str],
    prompts: list[str],
    sampling: Sampling | None = None,
    progress: Report = quiet,
    computed: dict[str, dict[str, Any]] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Ask every model every prompt, one after the other, so that the times are each model's own.

    Args:
        targets: Targets, run ids, ``base`` (the base of the first run) or ``base:MODEL``.
        prompts: what the user says; each one is a conversation of its own. Equal prompts are asked once.
        sampling: None is greedy.
        computed: is filled with how each model computes, by its name; see :func:`studio.models.processor.computing`.

    Returns:
        ``{prompt: [{"model", "output", "new_tokens", "seconds", "first_token_seconds"}, ...]}``, models in their order.

    Raises:
        StudioError: a model cannot be opened, or a prompt does not fit.
    """
    sampling = sampling or Sampling(temperature=0)
    if not targets or not prompts:
        missing = "model" if not targets else "prompt"
        raise StudioError(f"There is no {missing} to compare.", f"Name at least one {missing}.")
    texts = [t for t in targets if isinstance(t, str)]
    parsed = iter(Target.parse_all(texts))
    answers: dict[str, list[dict[str, Any]]] = {prompt: [] for prompt in prompts}
    for number, target in enumerate(targets):
        handle = engine.open(next(parsed) if isinstance(target, str) else target, progress)
        if computed is not None:
            computed[handle.name] = computing(handle.weights.model)
        for done, prompt in enumerate(answers):
            progress(f"Asking {handle.name}", number * len(answers) + done, len(targets) * len(answers))
            pieces = list(stream(handle, [{"role": "user", "content": prompt}], sampling))
            answers[prompt].append({"model": handle.name, **_answer(pieces)})
    return answers


def _answer(pieces: list[Piece]) -> dict[str, Any]:
    last = pieces[-1]
    return {
        "output": "".join(piece.text for piece in pieces),
        "new_tokens": last.new_tokens,
        "seconds": round(last.seconds, 4),
        "first_token_seconds": None if last.first_token_seconds is None else round(last.first_token_seconds, 4),
    }
