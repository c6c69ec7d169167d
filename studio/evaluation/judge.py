"""A language model as the judge of two models' answers to a suite.

Each pair is shown in one order for half of the prompts and in the other for the rest, since judges favour a side
(https://arxiv.org/abs/2306.05685, section 3.3). Replies are kept as they come, so that nothing is asked twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.evaluation.judge_endpoint import endpoint
from studio.evaluation.statistics import bradley_terry_intervals, paired_p, win_rates
from studio.evaluation.suite_run import SuiteRun
from studio.evaluation.verdicts import TIE, parse_verdict, without_thought
from studio.jobs.progress import Report, quiet
from studio.workspace import Workspace, safe_name

PROMPT = """Two assistants were given the same task. Say which answer is better: more correct, more complete for what \
was asked, and clearer. Do not favour the longer one, and do not mind which comes first.

The task:
{prompt}
{reference}
Answer A:
{a}

Answer B:
{b}

Reply with one line and nothing else: [[A]] if answer A is better, [[B]] if answer B is better, [[TIE]] if they are \
equally good."""
__all__ = ["PROMPT", "Ask", "Reply", "endpoint", "filled", "judge", "local", "replies_path"]
_LONGEST = 8000  # characters of an answer that a judge is shown
_LONGEST_REPLY = 20_000  # characters of a reply that are kept
_SHOWN = 400  # characters of a reply in the result: its end has the verdict
_MOST_FAILURES = 3  # in a row, after which the judge is not asked any more
_HOPELESS = ("judge-key", "judge-address", "judge-unreachable", "judge-unwritten")
Ask = Callable[[str], str]


@dataclass(frozen=True)
class Reply:
    """What a judge said about a prompt's answers; ``error`` instead where no reply came."""

    prompt_id: str
    flipped: bool
    said: str
    error: str = ""

    @property
    def score(self) -> float | None:
        """What the second model (the tuned one) got: 1, 0.5 or 0; None without a verdict."""
        verdict = None if self.error else parse_verdict(self.said)
        if verdict is None or verdict == TIE:
            return None if verdict is None else 0.5
        return float((verdict == "B") != self.flipped)


def judge(
    run: SuiteRun,
    first: str,
    second: str,
    ask: Ask,
    *,
    prompt: str = PROMPT,
    seed: int = 0,
    progress: Report = quiet,
    kept: Path | None = None,
) -> dict[str, Any]:
    """Let a judge compare two models' answers to a suite.

    Args:
        ask: a prompt to what the judge says.
        prompt: with ``{prompt}``, ``{reference}``, ``{a}`` and ``{b}`` in it.
        kept: a file with the replies so far (:func:`replies_path`); they are not asked for again, and new ones are
            added to it. None keeps nothing.

    Returns:
        ``{"prompts", "ties", "no_verdict", "failed", "first_side", "win_rates", "scores", "p", "verdicts"}``: how many
        were compared, how many of them were ties, had a reply without a verdict, or no reply; how often the side shown
        first won (0.5 is fair); each model's share of wins, its Bradley-Terry score as (low, score, high), and how
        often chance alone would set them so far apart. Only prompts with a verdict count in these.

    Raises:
        StudioError: the judge cannot be reached or refuses the key, three prompts in a row get no reply, or the prompt
            lacks one of its parts. Replies that came before are kept.
    """
    missing = [part for part in ("{prompt}", "{a}", "{b}") if part not in prompt]
    if missing:
        raise StudioError(f"The judge's prompt has no {missing[0]}.", "Put it where the text belongs.")
    asked = [p for p in run.answered() if first in run.answers and second in run.answers]
    order = sorted(asked, key=lambda p: hashlib.sha256(f"{seed} {p.id}".encode()).digest())
    flipped = {p.id for p in order[: len(order) // 2]}
    known = _read_replies(kept) if kept else {}
    replies: list[Reply] = []
    failures = 0
    for number, each in enumerate(asked):
        progress("Asking the judge", number, len(asked))
        reply = known.get((each.id, each.id in flipped))
        if reply is None:
            sides = [run.answers[name][each.id].output[:_LONGEST] for name in (first, second)]
            a, b = reversed(sides) if each.id in flipped else sides
            wanted = f"\nA correct answer:\n{each.reference}\n" if each.reference else ""
            text = filled(prompt, {"prompt": each.text, "reference": wanted, "a": a, "b": b})
            try:
                reply = Reply(each.id, each.id in flipped, _end(ask(text)))
                failures = 0
                if kept:
                    _append(kept, reply)
            except StudioError as error:
                failures += 1
                if error.code in _HOPELESS or failures == min(_MOST_FAILURES, len(asked)):
                    raise _stopped(error, kept) from error
                reply = Reply(each.id, each.id in flipped, "", error.what)
        replies.append(reply)
    return _result(first, second, replies)


def _end(reply: str) -> str:
    """The end of a reply. Thoughts are taken out of one that is too long: cut within them, they would look like it."""
    return reply if len(reply) <= _LONGEST_REPLY else without_thought(reply)[-_LONGEST_REPLY:]


def _stopped(error: StudioError, kept: Path | None) -> StudioError:
    """The error with what became of the replies so far."""
    more = " The replies so far are kept: the same command continues from there." if kept and kept.exists() else ""
    return StudioError(error.what, f"{error.fix}{more}", code=error.code)


def replies_path(run: SuiteRun, first: str, second: str, judge_name: str, prompt: str = PROMPT, seed: int = 0) -> Path:
    """Where the replies of a judge to these very answers and this prompt stand."""
    answers = [[run.answers[name].get(p.id) for p in run.suite.prompts] for name in (first, second)]
    parts = [run.suite.fingerprint, answers, judge_name, prompt, seed]
    key = hashlib.sha256(json.dumps(parts, default=asdict, sort_keys=True).encode()).hexdigest()[:16]
    return Workspace.current().folder("suites") / f"{safe_name(run.suite.name, 'suite')}-judged-{key}.jsonl"


def _read_replies(path: Path) -> dict[tuple[str, bool], Reply]:
    """The replies in a file by prompt and order; damaged lines are left out, and so asked again."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    found = {}
    for line in data.split(b"\n"):
        try:
            told = json.loads(line)
            reply = Reply(told["prompt_id"], told["flipped"], told["said"])
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if isinstance(reply.prompt_id, str) and isinstance(reply.flipped, bool) and isinstance(reply.said, str):
            found[reply.prompt_id, reply.flipped] = reply
    return found


def _append(path: Path, reply: Reply) -> None:
    line = json.dumps({"prompt_id": reply.prompt_id, "flipped": reply.flipped, "said": reply.said})
    try:
        with path.open("a+b") as file:
            size = file.tell()
            torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
            file.write((b"\n" if torn else b"") + line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StudioError(
            f"{path} cannot be written: {error.strerror}.", "Free some disk space, then go on.", code="judge-unwritten"
        ) from error


def filled(prompt: str, parts: dict[str, str]) -> str:
    """A template with its parts put in at once, so that braces in an answer stay what they are."""
    return re.sub(r"\{(prompt|reference|a|b)\}", lambda match: parts[match[1]], prompt)


def _result(first: str, second: str, replies: Sequence[Reply]) -> dict[str, Any]:
    scores = [(reply, reply.score) for reply in replies]
    told = [(reply, score) for reply, score in scores if score is not None]
    votes = [(first, second, 1 - score) for _, score in told]
    leading = [0.5 if score == 0.5 else float((score == 0) != reply.flipped) for reply, score in told]
    failed = sum(bool(reply.error) for reply in replies)
    return {
        "prompts": len(replies),
        "ties": sum(score == 0.5 for _, score in told),
        "no_verdict": len(replies) - len(told) - failed,
        "failed": failed,
        "first_side": sum(leading) / len(leading) if leading else None,
        "win_rates": win_rates(votes),
        "scores": bradley_terry_intervals(votes),
        "p": paired_p([1 - score for _, score in told], [score for _, score in told]) if told else None,
        "verdicts": [{**vars(reply), "said": reply.said[-_SHOWN:], "score": score} for reply, score in scores],
    }


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
