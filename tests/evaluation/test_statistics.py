"""Intervals that hold what they promise, a test that is exact, and scores that a reference implementation gives too."""

import itertools
import random

import choix
import numpy as np
import pytest
from scipy.stats import binomtest

from studio.evaluation.statistics import bradley_terry, bradley_terry_intervals, interval, paired_p, win_rates


def covered(draw, truth: float, trials: int = 1000) -> float:
    """How often the interval of a drawn sample holds the truth."""
    numbers = np.random.default_rng(1)
    hits = 0
    for _ in range(trials):
        low, high = interval(*draw(numbers), resamples=600)
        hits += low <= truth <= high
    return hits / trials


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda numbers: (numbers.normal(3, 2, 30),), 3.0),
        (lambda numbers: (numbers.random(60) < 0.7,), 0.7),
        (lambda numbers: (numbers.exponential(1, 80),), 1.0),
    ],
    ids=["normal", "share", "skewed"],
)
def test_an_interval_holds_the_truth_in_95_of_100_samples(draw, truth):
    assert 0.925 <= covered(draw, truth) <= 0.975


def test_the_interval_of_a_loss_over_tokens_holds_the_ratio():
    def draw(numbers):
        tokens = numbers.integers(5, 50, 60)
        return tokens * numbers.normal(2, 0.5, 60), tokens

    assert 0.92 <= covered(draw, 2.0) <= 0.975


def test_where_every_answer_is_right_the_interval_is_not_a_point():
    low, high = interval([1.0] * 60)
    assert high == pytest.approx(1)
    assert 0.93 < low < 0.95  # Wilson's for 60 of 60
    low, high = interval([0.0] * 60)
    assert low == pytest.approx(0.0, abs=1e-12)
    assert 0.05 < high < 0.07


def test_one_row_has_no_interval():
    assert interval([0.5]) is None


def test_the_same_rows_have_the_same_interval():
    values = np.random.default_rng(0).normal(size=50)
    assert interval(values) == interval(values)


def test_the_paired_test_of_right_and_wrong_is_mcnemars_exact_one():
    for better, worse in itertools.product(range(0, 8), range(0, 6)):
        first, second = [0.0] * better + [1.0] * worse + [1.0] * 5, [1.0] * better + [0.0] * worse + [1.0] * 5
        wanted = binomtest(better, better + worse).pvalue if better + worse else 1.0
        assert paired_p(first, second) == pytest.approx(wanted)


def test_the_drawn_test_agrees_with_the_exact_one():
    numbers = np.random.default_rng(2)
    better = 30
    first, second = [0.0] * better + [1.0] * 15, [1.0] * better + [0.0] * 15
    assert paired_p(first, second) == pytest.approx(binomtest(better, 45).pvalue, abs=0.01)
    same = numbers.normal(size=40)
    assert paired_p(same, same) == 1.0


def test_alike_models_are_called_different_in_5_of_100_cases():
    numbers = np.random.default_rng(3)
    found = [paired_p(*numbers.normal(size=(2, 25)), resamples=500) < 0.05 for _ in range(600)]
    assert 0.03 <= np.mean(found) <= 0.075


def drawn_votes(count: int, strengths: dict[str, float], seed: int) -> list[tuple[str, str, float]]:
    numbers, votes = random.Random(seed), []
    for _ in range(count):
        first, second = numbers.sample(list(strengths), 2)
        chance = strengths[first] / (strengths[first] + strengths[second])
        votes.append((first, second, float(numbers.random() < chance)))
    return votes


def test_scores_are_those_of_a_reference_implementation():
    for seed in range(20):
        strengths = {name: 2.0**power for power, name in enumerate("abcd")}
        votes = drawn_votes(200, strengths, seed)
        scores = bradley_terry(votes, prior=0)
        place = {name: number for number, name in enumerate(scores)}
        won = [(place[a], place[b]) if score else (place[b], place[a]) for a, b, score in votes]
        reference = choix.ilsr_pairwise(len(place), won)
        reference = 1000 + 400 / np.log(10) * (reference - reference.mean())
        assert list(scores.values()) == pytest.approx(list(reference), abs=1e-3)


def test_ten_wins_of_eleven_are_four_hundred_points():
    votes = [("a", "b", 1.0)] * 10 + [("a", "b", 0.0)]
    scores = bradley_terry(votes, prior=0)
    assert scores["a"] - scores["b"] == pytest.approx(400)
    assert sum(scores.values()) / 2 == pytest.approx(1000)


def test_a_tie_is_half_a_win_and_only_wins_still_give_a_finite_score():
    assert bradley_terry([("a", "b", 0.5)] * 3) == pytest.approx({"a": 1000, "b": 1000})
    scores = bradley_terry([("a", "b", 1.0)] * 5)
    assert 1000 < scores["a"] < 2000
    assert bradley_terry([]) == {}


def test_the_interval_of_a_score_shrinks_with_votes_and_holds_it():
    strengths = {"a": 3.0, "b": 1.0}
    few, many = (bradley_terry_intervals(drawn_votes(n, strengths, 1), resamples=200) for n in (20, 400))
    for found in (few, many):
        low, score, high = found["a"]
        assert low <= score <= high
    assert many["a"][2] - many["a"][0] < few["a"][2] - few["a"][0]
    truth = 1000 + 400 / np.log(10) * np.log(3) / 2
    assert many["a"][0] < truth < many["a"][2]


def test_win_rates_count_ties_half():
    assert win_rates([("a", "b", 1), ("a", "b", 0.5), ("b", "c", 0)]) == pytest.approx({"a": 0.75, "b": 1 / 6, "c": 1})
