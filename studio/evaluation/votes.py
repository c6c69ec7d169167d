"""Blind judgements: one line each in the workspace's ``votes.jsonl``, and what they say about the models."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from studio.errors import StudioError
from studio.evaluation.statistics import bradley_terry_intervals

VOTES = {"A": 1.0, "B": 0.0, "tie": 0.5, "bad": 0.5}  # the share of the left side; both bad tells nobody apart


_LONGEST_LINE = 1_000_000  # bytes


@dataclass(frozen=True)
class Vote:
    """One judgement.

    Attributes:
        prompt: what both were asked.
        tags: of the prompt.
        targets: both models, in the order of their names.
        sides: the models that stood on the left (A) and on the right (B).
        vote: a key of ``VOTES``.
        answers: SHA-256 of both answers (UTF-8), left and right.
        time: unix seconds.
    """

    prompt: str
    tags: tuple[str, ...]
    targets: tuple[str, str]
    sides: tuple[str, str]
    vote: str
    answers: tuple[str, str]
    time: float = field(default_factory=time.time)


def fingerprint(answer: str) -> str:
    """SHA-256 of an answer's UTF-8, in hexadecimal digits."""
    return hashlib.sha256(answer.encode("utf-8", "surrogatepass")).hexdigest()


def append(path: Path, vote: Vote) -> None:
    """Write one more line, and have it on the disk before this returns. A line that was torn by a kill stays alone.

    Raises:
        StudioError: it cannot be written.
    """
    line = json.dumps(asdict(vote)).encode() + b"\n"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, b"\n" + line if torn else line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StudioError(
            f"The vote cannot be written to {path}: {error.strerror}.", "Free some disk space."
        ) from error


@dataclass(frozen=True)
class Votes:
    """The votes of a file in the order of their lines, and what is wrong with each damaged line, by its number.

    A line that was torn by a kill counts as damaged too.
    """

    votes: list[Vote]
    damaged: dict[int, str]


def read(path: Path) -> list[Vote]:
    """All votes in the order of their lines, without damaged lines."""
    return read_votes(path).votes


def read_votes(path: Path) -> Votes:
    """The votes of a file. Damaged lines are passed over, each with its reason.

    Raises:
        StudioError: (``votes-unreadable``) the file is there and cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Votes([], {})
    except OSError as error:
        raise StudioError(
            f"The votes in {path} cannot be read: {error.strerror}.",
            "Correct its permissions, or move it away.",
            code="votes-unreadable",
        ) from error
    found, damaged = [], {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(_vote(line))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            damaged[number] = _reason(error)
    return Votes(found, damaged)


def _vote(line: bytes) -> Vote:
    """A vote from its line.

    Raises:
        ValueError, TypeError, KeyError, OverflowError, RecursionError: it is damaged.
    """
    if len(line) > _LONGEST_LINE:
        raise ValueError(f"it is longer than {_LONGEST_LINE:,} bytes")
    told = json.loads(line)
    if not isinstance(told, dict):
        raise TypeError("it is no object")
    json.dumps(told, ensure_ascii=False).encode()  # half a character, such as "\\ud800", is not text
    tags, targets, sides, answers = (_texts(told[name], name) for name in ("tags", "targets", "sides", "answers"))
    prompt, vote, when = told["prompt"], told["vote"], told["time"]
    if not isinstance(prompt, str):
        raise TypeError("prompt is no text")
    if not isinstance(vote, str) or vote not in VOTES:
        raise ValueError(f"vote is none of {', '.join(VOTES)}")
    if len(sides) != 2 or sides[0] == sides[1] or not all(sides):
        raise ValueError("sides are not two different models")
    if len(targets) != 2 or set(targets) != set(sides):
        raise ValueError("targets are not the models of the sides")
    if isinstance(when, bool) or not isinstance(when, int | float) or not math.isfinite(when):
        raise ValueError("time is no number")
    return Vote(prompt, tags, targets, sides, vote, answers, float(when))


def _texts(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"{name} is no list of texts")
    return tuple(value)


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"there is no {error.args[0]}"
    if isinstance(error, json.JSONDecodeError | UnicodeError):
        return "it is not JSON in UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return str(error)[:200]


@dataclass(frozen=True)
class Standing:
    """What the votes say about one model.

    Attributes:
        wins, losses, ties, bad: how often it was better, worse, as good, or both were bad.
        score: Bradley-Terry on the Elo scale, 1000 on average; ``low`` to ``high`` is the 95 % bootstrap interval.
    """

    name: str
    wins: int
    losses: int
    ties: int
    bad: int
    low: float
    score: float
    high: float

    @property
    def votes(self) -> int:
        return self.wins + self.losses + self.ties + self.bad

    @property
    def win_rate(self) -> float:
        """Wins and half of the rest, as a share of all votes."""
        return (self.wins + 0.5 * (self.ties + self.bad)) / self.votes


def tags(votes: Sequence[Vote]) -> list[str]:
    """Every tag, most used first."""
    counts: dict[str, int] = {}
    for vote in votes:
        for tag in vote.tags:
            counts[tag] = counts.get(tag, 0) + 1
    return sorted(counts, key=lambda tag: (-counts[tag], tag))


def standings(votes: Sequence[Vote], tag: str | None = None, *, resamples: int = 1000) -> list[Standing]:
    """The models by their score, best first.

    Args:
        tag: only prompts with this tag.
    """
    chosen = [vote for vote in votes if tag is None or tag in vote.tags]
    if not chosen:
        return []
    scores = bradley_terry_intervals([(*vote.sides, VOTES[vote.vote]) for vote in chosen], resamples=resamples)
    found = []
    for name, (low, score, high) in scores.items():
        counts = {"wins": 0, "losses": 0, "ties": 0, "bad": 0}
        for vote in chosen:
            for side, won in zip(vote.sides, ("A", "B"), strict=True):
                if side == name:
                    outcome = {"tie": "ties", "bad": "bad", won: "wins"}.get(vote.vote, "losses")
                    counts[outcome] += 1
        found.append(Standing(name, **counts, low=low, score=score, high=high))
    return sorted(found, key=lambda standing: -standing.score)
