"""Reduced curves: nothing that stands out is lost, and no column of pixels has more points than it can show."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.runs.decimate import PER_BUCKET, kept, kept_with_gaps, smoothed, window

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


@settings(deadline=None)
@given(curves, st.integers(1, 5000), st.integers(1, 300), st.data())
def test_results_14_a_gap_anywhere_in_a_curve_survives_and_so_does_a_spike(chance, count, buckets, data):
    x, y = points(chance, count)
    at, length = data.draw(st.integers(0, count - 1)), data.draw(st.integers(1, 50))
    y[at : at + length] = np.nan
    known = np.flatnonzero(np.isfinite(y))
    if len(known):
        spike = data.draw(st.sampled_from(known.tolist()))
        y[spike] = 1000.0
    chosen = kept_with_gaps(x, y, buckets)
    assert np.isnan(y[chosen]).any()
    if len(known):
        assert spike in chosen
        assert {known[known < at].max(initial=known[0]), known[known > at].min(initial=known[-1])} <= set(chosen)
    assert len(chosen) <= PER_BUCKET * buckets + 3 or count <= PER_BUCKET * buckets


def test_results_14_many_gaps_are_one_a_bucket_and_nothing_finite_is_as_before():
    x, y = np.arange(10_000.0), np.random.default_rng(0).normal(size=10_000)
    assert kept_with_gaps(x, y, 50).tolist() == kept(x, y, 50).tolist()
    y[::2] = np.nan
    chosen = kept_with_gaps(x, y, 50)
    assert 50 <= np.isnan(y[chosen]).sum() <= 150
    assert kept_with_gaps(x, np.full(10_000, np.nan), 50).size <= 150


def test_results_14_the_moving_average_goes_on_after_a_gap_as_if_it_were_not_there():
    values = np.random.default_rng(0).normal(size=300)
    holed = np.insert(values, [100, 100, 200], np.nan)
    average = smoothed(holed, 0.9)
    assert np.isnan(average[[100, 101, 202]]).all()
    assert np.allclose(average[np.isfinite(holed)], smoothed(values, 0.9))
