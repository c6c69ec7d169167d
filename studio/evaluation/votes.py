"""Blind judgements: one line each in the workspace's ``votes.jsonl``, and what they say about the models."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from studio.errors import StudioError
from studio.evaluation.statistics import bradley_terry_intervals

VOTES = {"A": 1.0, "B": 0.0, "tie": 0.5, "bad": 0.5}  # the share of the left side; both bad tells nobody apart


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


def read(path: Path) -> list[Vote]:
    """All votes in the order of their lines; lines that are not whole are left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().split(b"\n"):
        try:
            told = json.loads(line)
            tags, targets, sides, answers = (tuple(told[n]) for n in ("tags", "targets", "sides", "answers"))
            vote = Vote(str(told["prompt"]), tags, targets, sides, told["vote"], answers, float(told["time"]))
        except (ValueError, KeyError, TypeError):
            continue
        if vote.vote in VOTES and len(sides) == 2:
            found.append(vote)
    return found


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
