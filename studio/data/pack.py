"""Short examples one behind another in rows of equal room."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Which examples go into which row of ``size`` tokens, best fit first; none is cut or left out.

    The order of TRL's ``bfd`` strategy (https://arxiv.org/abs/2404.10830): the longest first, each into the fullest row
    that still has room.

    Returns:
        the numbers of the examples of each row.
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # tokens free in each row that is not full, and which row it is; ascending
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        length = lengths[number]
        fits = bisect_left(free, (length, 0))
        if fits == len(free):
            room, row = size, len(rows)
            rows.append([])
        else:
            room, row = free.pop(fits)
        rows[row].append(number)
        if room > length:
            insort(free, (room - length, row))
    return rows
