"""A language model as the judge of two answers: any OpenAI-compatible endpoint, or a local model.

Each pair is shown in one order for half of the prompts and in the other for the rest, since judges favour a side
(https://arxiv.org/abs/2306.05685, section 3.3). The judge is asked for one word; anything else counts as no verdict.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from studio.errors import StudioError
from studio.evaluation.statistics import bradley_terry_intervals, paired_p, win_rates
from studio.evaluation.suite_run import SuiteRun
from studio.models.progress import Report, quiet

PROMPT = """Two assistants were given the same task. Say which answer is better: more correct, more complete for what \
was asked, and clearer. Do not favour the longer one, and do not mind which comes first.

The task:
{prompt}
{reference}
Answer A:
{a}

Answer B:
{b}

Reply with one word: A, B, or TIE."""
_VERDICT = re.compile(r"\b(A|B|TIE)\b")
_LONGEST = 8000  # characters of an answer that a judge is shown
_SECONDS = 120.0
Ask = Callable[[str], str]


@dataclass(frozen=True)
class Verdict:
    """``score`` is what the second model (the tuned one) got: 1, 0.5, 0; None where the judge gave no verdict."""

    prompt_id: str
    flipped: bool
    said: str
    score: float | None


def judge(
    run: SuiteRun, first: str, second: str, ask: Ask, *, prompt: str = PROMPT, seed: int = 0, progress: Report = quiet
) -> dict[str, Any]:
    """Let a judge compare two models' answers to a suite.

    Args:
        ask: a prompt to what the judge says.
        prompt: with ``{prompt}``, ``{reference}``, ``{a}`` and ``{b}`` in it.

    Returns:
        ``{"prompts", "no_verdict", "first_side", "win_rates", "scores", "p", "verdicts"}``: how many were compared, and
        how many without a verdict; how often the side shown first won (0.5 is fair); each model's share of wins, its
        Bradley-Terry score as (low, score, high), and how often chance alone would set them so far apart.

    Raises:
        StudioError: the judge cannot be reached, or the prompt lacks one of its parts.
    """
    missing = [part for part in ("{prompt}", "{a}", "{b}") if part not in prompt]
    if missing:
        raise StudioError(f"The judge's prompt has no {missing[0]}.", "Put it where the text belongs.")
    asked = [p for p in run.answered() if first in run.answers and second in run.answers]
    order = sorted(asked, key=lambda p: hashlib.sha256(f"{seed} {p.id}".encode()).digest())
    flipped = {p.id for p in order[: len(order) // 2]}
    verdicts = []
    for number, each in enumerate(asked):
        progress("Asking the judge", number, len(asked))
        sides = [run.answers[name][each.id].output[:_LONGEST] for name in (first, second)]
        a, b = reversed(sides) if each.id in flipped else sides
        wanted = f"\nA correct answer:\n{each.reference}\n" if each.reference else ""
        said = ask(filled(prompt, {"prompt": each.text, "reference": wanted, "a": a, "b": b}))
        verdicts.append(Verdict(each.id, each.id in flipped, said[:200], _score(said, each.id in flipped)))
    return _result(first, second, verdicts)


def filled(prompt: str, parts: dict[str, str]) -> str:
    """A template with its parts put in at once, so that braces in an answer stay what they are."""
    return re.sub(r"\{(prompt|reference|a|b)\}", lambda match: parts[match[1]], prompt)


def _score(said: str, flipped: bool) -> float | None:
    found = _VERDICT.findall(said.upper())
    if not found:
        return None
    word = found[-1]  # a judge that thinks aloud ends with its verdict
    if word == "TIE":
        return 0.5
    return float((word == "B") != flipped)


def _result(first: str, second: str, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    told = [v for v in verdicts if v.score is not None]
    votes = [(first, second, 1 - v.score) for v in told]
    leading = [0.5 if v.score == 0.5 else float((v.score == 0) != v.flipped) for v in told]
    return {
        "prompts": len(verdicts),
        "no_verdict": len(verdicts) - len(told),
        "first_side": sum(leading) / len(leading) if leading else None,
        "win_rates": win_rates(votes),
        "scores": bradley_terry_intervals(votes),
        "p": paired_p([1 - v.score for v in told], [v.score for v in told]) if told else None,
        "verdicts": [vars(v) for v in verdicts],
    }


def endpoint(url: str, model: str, *, key_variable: str = "JUDGE_API_KEY") -> Ask:
    """A judge behind an OpenAI-compatible endpoint; the key is read from an environment variable and kept nowhere.

    Args:
        url: up to and with ``/v1``.

    Raises:
        StudioError: (when asked) it does not answer, refuses the key, or answers something else.
    """
    import httpx

    address = f"{url.rstrip('/')}/chat/completions"
    key = os.environ.get(key_variable)
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    def ask(text: str) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 512}
        try:
            answer = httpx.post(address, json=body, headers=headers, timeout=_SECONDS, trust_env=False)
        except httpx.HTTPError as error:
            raise StudioError(
                f"The judge at {url} does not answer: {type(error).__name__}.", "Check the address."
            ) from None
        if answer.status_code in (401, 403):
            raise StudioError("The judge refuses the key.", f"Set {key_variable} to one that it takes.")
        try:
            answer.raise_for_status()
            return str(answer.json()["choices"][0]["message"]["content"] or "")
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError):
            raise StudioError(
                f"The judge at {url} answers with status {answer.status_code} and no message.",
                "Check the address (it ends with /v1) and the model's name.",
            ) from None

    return ask


def local(target: Any, engine: Any, progress: Report = quiet) -> Ask:
    """A judge on this machine: any model that can be talked to.

    Raises:
        StudioError: it cannot be opened.
    """
    from studio.inference import Sampling, stream

    handle = engine.open(target, progress)
    sampling = Sampling(temperature=0, max_new_tokens=512)

    def ask(text: str) -> str:
        return "".join(piece.text for piece in stream(handle, [{"role": "user", "content": text}], sampling))

    return ask
