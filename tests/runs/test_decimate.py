"""Reduced curves: nothing that stands out is lost, and no column of pixels has more points than it can show."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.runs.decimate import PER_BUCKET, kept, smoothed, window

curves = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def points(chance: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A random curve: steps with gaps of any size between them, values that wander."""
    return np.cumsum(chance.integers(1, 1 + 10 ** chance.integers(0, 4), count)).astype(float), chance.normal(
        size=count
    )


@settings(deadline=None)
@given(curves, st.integers(1, 5000), st.integers(1, 300), st.data())
def test_a_spike_anywhere_in_a_curve_survives(chance, count, buckets, data):
    x, y = points(chance, count)
    at, sign = data.draw(st.integers(0, count - 1)), data.draw(st.sampled_from([-1, 1]))
    y[at] = sign * 1000.0
    assert at in kept(x, y, buckets)


@settings(deadline=None)
@given(curves, st.integers(1, 5000), st.integers(1, 300))
def test_each_bucket_keeps_its_first_lowest_highest_and_last_value(chance, count, buckets):
    x, y = points(chance, count)
    chosen = set(kept(x, y, buckets).tolist())
    if count <= PER_BUCKET * buckets:
        assert chosen == set(range(count))
        return
    edges = np.linspace(x[0], x[-1], buckets + 1)[:-1]
    bucket = np.searchsorted(edges, x, side="right") - 1
    for number in np.unique(bucket):
        inside = np.flatnonzero(bucket == number)
        assert {inside[0], inside[-1], inside[y[inside].argmin()], inside[y[inside].argmax()]} <= chosen


@settings(deadline=None)
@given(curves, st.integers(1, 5000), st.integers(1, 300))
def test_no_more_points_are_kept_than_four_a_bucket(chance, count, buckets):
    chosen = kept(*points(chance, count), buckets)
    assert len(chosen) <= PER_BUCKET * buckets
    assert np.all(np.diff(chosen) > 0)


def test_points_that_all_stand_at_one_place_are_reduced_too():
    assert kept(np.zeros(100), np.arange(100.0), 10).tolist() == [0, 99]


def test_a_window_holds_one_more_point_on_each_side():
    x = np.arange(10.0)
    assert x[window(x, 3.5, 6.0)].tolist() == [3, 4, 5, 6, 7]
    assert x[window(x, None, None)].tolist() == x.tolist()
    assert x[window(x, 20.0, 30.0)].tolist() == [9]


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.9, 0.999])
def test_the_moving_average_is_that_of_the_recursion(weight):
    values = np.random.default_rng(0).normal(size=3000)
    mean = share = 0.0
    expected = []
    for value in values:
        mean, share = weight * mean + (1 - weight) * value, weight * share + (1 - weight)
        expected.append(mean / share)
    assert np.allclose(smoothed(values, weight), expected, atol=1e-5)
