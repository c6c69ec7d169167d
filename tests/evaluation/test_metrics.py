"""Metrics against values computed by hand."""

from __future__ import annotations

import math

import pytest

from studio.evaluation import exact_match, mean, perplexity


@pytest.mark.parametrize(
    "output, reference, same",
    [("yes", "yes", True), (" yes\n", "yes", True), ("yes", "Yes", False), ("", "", True), ("a  b", "a b", False)],
)
def test_exact_match_is_to_the_letter_but_for_blanks_at_both_ends(output, reference, same):
    assert exact_match(output, reference) is same


def test_perplexity_is_the_number_of_equally_likely_tokens():
    assert perplexity(math.log(8)) == pytest.approx(8)
    assert perplexity(0) == 1


def test_perplexity_of_a_hopeless_model_is_infinite_and_no_error():
    assert perplexity(1e6) == math.inf


def test_the_mean_of_nothing_is_none():
    assert mean([]) is None
    assert mean([True, False, False, True]) == 0.5
