"""Checks of a suite: which answers get credit, and which checks are refused."""

from __future__ import annotations

import pytest

from studio.errors import StudioError
from studio.evaluation.checks import passes, sound


@pytest.mark.parametrize(
    ("check", "output"),
    [
        ({"starts": ["A"]}, "Hello there"), ({"starts": ["A"]}, "A cat sat"), ({"starts": ["-5"]}, "5 it is"),
        ({"equals": ["-5"]}, "5"), ({"equals": ["3.5"]}, "35"), ({"equals": ["C++"]}, "C"), ({"equals": ["A"]}, "The"),
        ({"contains": ["5"]}, "15"), ({"contains": ["5"]}, "x = -5"), ({"contains": ["2.5"]}, "12.5"),
        ({"contains": ["1,000"]}, "21,000"), ({"contains": ["5"]}, "0.5"), ({"contains": ["C++"]}, "C"),
    ],
)  # fmt: skip
def test_results_02_no_check_passes_another_letter_or_number(check, output):
    assert not passes(sound(check), output)


@pytest.mark.parametrize(
    ("check", "output"),
    [
        ({"starts": ["A"]}, "A"), ({"starts": ["A"]}, "A. Because it is"), ({"starts": ["a"]}, "(A) the first"),
        ({"starts": ["The"]}, "The cat sat"), ({"starts": ["the cat"]}, "Cat sat"), ({"starts": ["cat"]}, "The cat"),
        ({"equals": ["A"]}, "a."), ({"equals": ["-5"]}, "−5."), ({"equals": ["1,000"]}, "1000"),
        ({"contains": ["5"]}, "15 or 5"), ({"contains": ["10", "5"]}, "between 5-10"), ({"contains": ["-5"]}, "x=−5"),
        ({"contains": ["refund"]}, "REFUNDS"), ({"refuses": True}, "I’m sorry, but I can’t help with that."),
    ],
)  # fmt: skip
def test_results_02_the_same_answer_in_another_spelling_passes(check, output):
    assert passes(sound(check), output)


@pytest.mark.parametrize(
    ("wanted", "output", "passed"),
    [
        (5, ".5", False), (0.5, ".5", True), (1000, "1e3", True), (10, "between 5-10", True), (1000, "1,000", True),
        (-3, "−3", True), (3, "−3", False), (10**9, "1,000,000,001", False), (0.3, "0.30", True), (15, "15.0", True),
        (1 / 3, "0.33333333333", True), (1, "1e999", False), (1.5, "1e999", False), (7, "no number", False),
    ],
)  # fmt: skip
def test_results_10_a_number_is_compared_by_its_value(wanted, output, passed):
    assert passes(sound({"number": wanted}), output) is passed


@pytest.mark.parametrize("wanted", [float("nan"), float("inf"), -float("inf"), 10**400, True, "5", None, [5]])
def test_results_10_a_check_for_what_is_no_finite_number_is_refused(wanted):
    with pytest.raises(StudioError):
        sound({"number": wanted})


@pytest.mark.parametrize(
    ("check", "output", "passed"),
    [
        ({"equals": ["C"]}, r"\boxed{C}", True),
        ({"equals": ["C"]}, r"The answer is $\boxed{\text{C}}$.", True),
        ({"equals": ["C"]}, r"\boxed{A} was wrong, it is \boxed{C}", True),
        ({"equals": ["A"]}, r"\boxed{A} was wrong, it is \boxed{C}", False),
        ({"equals": [r"\frac{1}{2}"]}, r"So \boxed{\frac{1}{2}}", True),
        ({"starts": ["C"]}, r"So \boxed{C}", True),
        ({"number": 12}, r"In 3 steps: \boxed{12}. That took 5 lines.", True),
        ({"equals": ["C"]}, r"\boxed{C", False),
        ({"equals": ["C"]}, "The answer is C", False),
    ],
)
def test_results_13_the_last_box_gets_credit(check, output, passed):
    assert passes(sound(check), output) is passed


@pytest.mark.parametrize(
    "check",
    [
        {"regex": 5}, {"regex": ""}, {"regex": "a" * 2000}, {"regex": "(?:a{10000}){10000}"}, {"equals": [" "]},
        {"regex": "((((a{1,1000}){1,1000}){1,1000}){1,1000})"}, {"words": [5, 2]}, {"json": {"a": float("nan")}},
    ],
)  # fmt: skip
def test_a_check_that_can_never_pass_or_never_end_is_refused(check):
    with pytest.raises(StudioError):
        sound(check)


def test_an_expression_that_backtracks_for_ever_ends_after_a_second_with_its_code():
    with pytest.raises(StudioError) as caught:
        passes(sound({"regex": r"^(?:a|aa|aaa)+$"}), "a" * 5000 + "b")
    assert caught.value.code == "regex-too-slow"
