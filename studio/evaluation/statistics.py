"""How sure a figure is: bootstrap intervals, a paired test, and Bradley-Terry scores from votes. Plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000
_ELO = 400 / math.log(10)  # points for a factor e in the odds of winning
_MEAN_SCORE = 1000.0
_LEAST = 1e-12  # the strength of a model that has never won, where there is no prior
_EXACT_ROWS = 14  # up to so many differences every choice of signs is tried


def interval(
    values: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The bootstrap interval of a mean over rows, or of a ratio of sums.

    Rows are drawn with replacement. The percentiles are widened as Hesterberg (2015, What Teachers Should Know About
    the Bootstrap, https://arxiv.org/abs/1411.5279, section 4.3) advises, since the plain ones are too narrow for few
    rows. Where every value is 0, or every one 1, drawing tells nothing: Wilson's interval (1927) is given.

    Args:
        values: one number a row.
        weights: what each row counts; the statistic is then sum(values) / sum(weights), as a loss over tokens is.

    Returns:
        (low, high); None for fewer than two rows.
    """
    numbers = np.asarray(values, dtype=float)
    count = len(numbers)
    if count < 2:
        return None
    if weights is None and (numbers == numbers[0]).all():
        return _wilson(numbers[0], count, level) if numbers[0] in (0.0, 1.0) else (float(numbers[0]),) * 2
    drawn = _resampled(numbers, None if weights is None else np.asarray(weights, dtype=float), resamples, seed)
    low, high = np.quantile(drawn, _percentiles(count, level))
    return float(low), float(high)


def _resampled(values: np.ndarray, weights: np.ndarray | None, resamples: int, seed: int) -> np.ndarray:
    """The statistic of ``resamples`` draws, a few at a time so that long files stay small in memory."""
    random, count = np.random.default_rng(seed), len(values)
    at_once = max(1, 4_000_000 // count)
    parts = []
    for start in range(0, resamples, at_once):
        rows = random.integers(0, count, size=(min(at_once, resamples - start), count))
        total = values[rows].sum(axis=1)
        parts.append(total / (count if weights is None else weights[rows].sum(axis=1)))
    return np.concatenate(parts)


def _percentiles(count: int, level: float) -> tuple[float, float]:
    from scipy.stats import t

    bound = t.ppf((1 + level) / 2, count - 1) * math.sqrt(count / (count - 1))
    low = NormalDist().cdf(-bound)
    return low, 1 - low


def _wilson(share: float, count: int, level: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def paired_p(first: Sequence[float], second: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> float:
    """How often chance alone would set two models so far apart on the same rows: the two-sided sign-flip test.

    If both were alike, each row's difference could as well have the other sign (Fisher's randomisation test; of zeros
    and ones it is McNemar's exact test). Few rows are tried in every way, many by drawing, where the sample itself
    counts as one draw (Phipson and Smyth 2010).
    """
    differences = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    differences = differences[differences != 0]
    count = len(differences)
    if not count:
        return 1.0
    seen = abs(differences.sum()) * (1 - 1e-12)  # sums in another order may differ in the last digit
    if count <= _EXACT_ROWS:
        bits = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        return float((abs((1 - 2 * bits) @ differences) >= seen).mean())
    random, at_once, hits = np.random.default_rng(seed), max(1, 4_000_000 // count), 0
    for start in range(0, resamples, at_once):
        signs = 1 - 2 * random.integers(0, 2, size=(min(at_once, resamples - start), count), dtype=np.int8)
        hits += int((abs(signs @ differences) >= seen).sum())
    return (hits + 1) / (resamples + 1)


def bradley_terry(votes: Sequence[tuple[str, str, float]], *, prior: float = 0.1) -> dict[str, float]:
    """Strengths from comparisons in pairs, on the Elo scale with mean 1000: 400 points are odds of ten to one.

    The model of Bradley and Terry (1952), fitted by Hunter's minorisation (2004, MM algorithms for generalized
    Bradley-Terry models). A tie is half a win for each side.

    Args:
        votes: first name, second name, and what the first got: 1, 0.5 or 0.
        prior: so many ties are added between any two, so that a model that has only won gets a finite score; 0 fits the
            votes alone, and needs everybody to have won and lost along some chain.

    Returns:
        The score by name, in the order in which the names come up.
    """
    names, first, second, got = _tables(votes)
    if not names:
        return {}
    return dict(zip(names, _fitted(_wins(len(names), first, second, got), prior).tolist(), strict=True))


def bradley_terry_intervals(
    votes: Sequence[tuple[str, str, float]], *, resamples: int = 1000, seed: int = 0, prior: float = 0.1
) -> dict[str, tuple[float, float, float]]:
    """(low, score, high) by name: 95 % bootstrap intervals over the votes."""
    scores = bradley_terry(votes, prior=prior)
    if len(votes) < 2:
        return {name: (score, score, score) for name, score in scores.items()}
    names, first, second, got = _tables(votes)
    random, drawn = np.random.default_rng(seed), []
    for _ in range(resamples):
        rows = random.integers(0, len(votes), size=len(votes))
        drawn.append(_fitted(_wins(len(names), first[rows], second[rows], got[rows]), prior))
    low, high = np.quantile(drawn, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), axis=0).tolist()
    return {name: (low[at], score, high[at]) for at, (name, score) in enumerate(scores.items())}


def _tables(votes: Sequence[tuple[str, str, float]]) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """The names, and of each vote the numbers of both and what the first got."""
    names = list(dict.fromkeys(name for vote in votes for name in vote[:2]))
    place = {name: number for number, name in enumerate(names)}
    assert all(0 <= score <= 1 for _, _, score in votes), "a score is between 0 and 1"
    first, second = ([place[vote[side]] for vote in votes] for side in (0, 1))
    return names, np.array(first, int), np.array(second, int), np.array([vote[2] for vote in votes], float)


def _wins(count: int, first: np.ndarray, second: np.ndarray, got: np.ndarray) -> np.ndarray:
    """How often each (row) has won against each (column)."""
    wins = np.zeros((count, count))
    np.add.at(wins, (first, second), got)
    np.add.at(wins, (second, first), 1 - got)
    return wins


def _fitted(wins: np.ndarray, prior: float) -> np.ndarray:
    count = len(wins)
    wins = wins + prior / 2 * (1 - np.eye(count))
    np.fill_diagonal(wins, 0)
    games, won = wins + wins.T, wins.sum(axis=1)
    strength = np.ones(count)
    for _ in range(10_000):
        sums = (games / (strength[:, None] + strength[None, :])).sum(axis=1)
        new = np.divide(won, sums, out=np.full(count, _LEAST), where=(sums > 0) & (won > 0))
        new = np.maximum(new / np.exp(np.log(new).mean()), _LEAST)
        close = np.abs(np.log(new) - np.log(strength)).max() < 1e-10
        strength = new
        if close:
            break
    return _MEAN_SCORE + _ELO * np.log(strength)


def win_rates(votes: Sequence[tuple[str, str, float]]) -> dict[str, float]:
    """The share of its comparisons that each won, a tie counted half."""
    got: dict[str, list[float]] = {}
    for first, second, score in votes:
        got.setdefault(first, []).append(score)
        got.setdefault(second, []).append(1 - score)
    return {name: sum(scores) / len(scores) for name, scores in got.items()}
