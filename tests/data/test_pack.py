"""Rows of several examples: none is lost, none is cut, little room is empty."""

import random

import pytest

from studio.data.pack import pack


@pytest.mark.parametrize("seed", range(20))
def test_every_example_is_in_one_row_and_no_row_is_too_long(seed):
    draw = random.Random(seed)
    size = draw.randint(8, 300)
    lengths = [draw.randint(1, size) for _ in range(draw.randint(1, 400))]
    rows = pack(lengths, size)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    filled = sorted(sum(lengths[number] for number in row) for row in rows)
    assert filled[-1] <= size
    assert len(filled) < 2 or filled[0] + filled[1] > size  # two rows that would fit into one are one


def test_the_longest_come_first_and_each_into_the_fullest_row_that_has_room():
    assert pack([6, 4, 5, 5, 3], 10) == [[0, 1], [2, 3], [4]]
    assert pack([7, 6, 3, 4], 10) == [[0, 2], [1, 3]]
    assert pack([], 10) == []
