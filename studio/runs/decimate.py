"""Curves with far more points than a screen has columns, reduced without losing what a person looks for.

Each column of pixels keeps its first, lowest, highest and last point, which draws the same picture as all points do
(M4: Jugel, Jerzak, Hackenbroich and Markl, "M4: A Visualization-Oriented Time Series Data Aggregation", VLDB 2014). A
spike of one step among a million is one of them.
"""

from __future__ import annotations

import numpy as np

PER_BUCKET = 4
_NEGLIGIBLE = 1e-7  # of a weight in a moving average


def kept(x: np.ndarray, y: np.ndarray, buckets: int) -> np.ndarray:
    """Which points to draw in ``buckets`` columns of pixels.

    Args:
        x: rising (not strictly), finite.
        y: finite, as long as ``x``.

    Returns:
        Indices, rising; all of them if there are no more than four a bucket.
    """
    count = len(x)
    if count <= PER_BUCKET * buckets:
        return np.arange(count)
    edges = np.linspace(x[0], x[-1], buckets + 1)[:-1]
    starts = np.unique(np.searchsorted(x, edges))  # buckets without points have the start of the next one
    starts = starts[starts < count]
    sizes = np.diff(starts, append=count)
    picked = [starts, starts + sizes - 1]
    for extreme in (np.minimum, np.maximum):
        hits = np.flatnonzero(y == np.repeat(extreme.reduceat(y, starts), sizes))
        picked.append(hits[np.searchsorted(hits, starts)])  # the first in each bucket; there always is one
    return np.unique(np.concatenate(picked))


def kept_with_gaps(x: np.ndarray, y: np.ndarray, buckets: int) -> np.ndarray:
    """As :func:`kept` for a curve in which some values are NaN.

    In each bucket in which a gap begins, the first one is kept: a NaN, and the value before it and the one after it.
    """
    known = np.isfinite(y)
    if known.all() or len(x) <= PER_BUCKET * buckets:
        return kept(x, y, buckets) if known.all() else np.arange(len(x))
    there = np.flatnonzero(known)
    chosen = there[kept(x[there], y[there], buckets)] if len(there) else there
    starts = np.flatnonzero(~known & np.r_[True, known[:-1]])
    bucket = np.searchsorted(np.linspace(x[0], x[-1], buckets + 1)[:-1], x[starts], side="right")
    starts = starts[np.unique(bucket, return_index=True)[1]]
    after = there[np.minimum(np.searchsorted(there, starts), len(there) - 1)] if len(there) else there
    return np.unique(np.concatenate([chosen, starts, np.maximum(starts - 1, 0), after]))


def window(x: np.ndarray, low: float | None, high: float | None) -> slice:
    """The points from ``low`` to ``high`` and one more on each side, so that the line leaves the picture."""
    start = 0 if low is None else max(0, int(np.searchsorted(x, low)) - 1)
    stop = len(x) if high is None else int(np.searchsorted(x, high, side="right")) + 1
    return slice(start, stop)


def smoothed(values: np.ndarray, weight: float) -> np.ndarray:
    """The exponential moving average at every point, corrected for its start (Kingma and Ba 2015, section 3).

    The average of 2n points is that of n points plus that of the n before them times ``weight ** n``, so the whole
    curve takes a few passes, however long it is.

    A NaN changes nothing: the average goes on after it as if it were not there, and is NaN at its place.

    Args:
        values: finite, or NaN.
        weight: of the past, from 0 to below 1.
    """
    known = np.isfinite(values)
    if not known.all():
        whole = np.full(len(values), np.nan)
        whole[known] = smoothed(values[known], weight)
        return whole
    total = (1 - weight) * values
    reach, share = 1, weight
    while reach < len(values) and share > _NEGLIGIBLE:
        total[reach:] += share * total[:-reach]
        reach, share = 2 * reach, share * share
    start = min(len(values), reach)  # after it the weights add up to one
    total[:start] /= 1 - weight ** np.arange(1, start + 1, dtype=np.float64)
    return total
