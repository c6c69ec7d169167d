"""The final answer of a text: its last box, and numbers in the notations that models write."""

from __future__ import annotations

import time
from decimal import Decimal

import pytest

from studio.evaluation.final_answer import boxed, last_number, number_spans


def numbers(text: str) -> list[Decimal]:
    return [value for _, _, value in number_spans(text)]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (".5", ["0.5"]), ("-.5", ["-0.5"]), ("1e3", ["1000"]), ("1.5E-2", ["0.015"]), ("between 5-10", ["5", "10"]),
        ("5–10", ["5", "10"]), ("−3.5", ["-3.5"]), ("–5", ["-5"]), ("x=-5", ["-5"]), ("5 - 3", ["5", "3"]),
        ("1,234.", ["1234"]), ("1,000,000.5", ["1000000.5"]), ("1'000'000", ["1000000"]), ("1_000", ["1000"]),
        ("1\u202f000", ["1000"]), ("1.234.567", ["1234567"]), ("1.234,56", ["1234.56"]), ("1,2,3", ["1", "2", "3"]),
        ("1.5 × 10^3", ["1500"]), (r"2 \times 10^{-3}", ["0.002"]), ("5kg", ["5"]), ("$5.00", ["5"]), ("50%", ["50"]),
        ("答案是5", ["5"]), ("٣", ["3"]), ("...5", ["5"]), ("12:30", ["12", "30"]),
    ],
)  # fmt: skip
def test_results_10_numbers_are_read_in_their_usual_notations(text, values):
    assert numbers(text) == [Decimal(value) for value in values]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\boxed{\frac{1}{2}}", "0.5"), (r"\boxed{-\dfrac{3}{4}}", "-0.75"), (r"So it is $\tfrac{1}{4}$.", "0.25"),
        (r"\boxed{1\frac{1}{2}}", "1.5"), (r"\frac12", "0.5"), (r"\boxed{\frac{-6}{3}}", "-2"), (r"\boxed{1/2}", "0.5"),
        ("1/2", "0.5"), ("-1/2.", "-0.5"), (r"\(3/4\)", "0.75"), ("1 1/2", "1.5"), (r"\boxed{1,000/4}", "250"),
        ("on 1/2 it is 7", "7"), ("it rained on 3/4", "4"), (r"\frac{1}{2} of 8 is 4", "4"),
        (r"8 halves: \frac{8}{2} = \boxed{4}", "4"), (r"\boxed{\frac{\pi}{2}}", None), (r"\boxed{\frac{1}{0}}", None),
        (r"5-\frac{1}{2}", "0.5"), (r"5 - \frac{1}{2}", "0.5"), (r"x=-\frac{1}{2}", "-0.5"), (r"-2\frac{1}{2}", "-2.5"),
        (r"\boxed{\frac{\frac{1}{2}}{x}}", None),
        ("-$5", "-5"), ("−€5", "-5"), (r"\boxed{-\$5}", "-5"), (r"-\$5.50", "-5.5"), ("$5", "5"), ("10-$5", "5"),
        ("- $5", "5"), ("$-5$", "-5"),
    ],
)  # fmt: skip
def test_results_10_fractions_are_one_number_and_a_minus_goes_before_a_currency_sign(text, value):
    assert last_number(text) == (None if value is None else Decimal(value))


@pytest.mark.parametrize("text", ["Q3", "H2O", "v1.2.3", "10.0.0.1", "none", ""])
def test_results_10_names_and_versions_are_no_numbers(text):
    assert numbers(text) == []


def test_results_10_the_last_number_counts_and_a_box_goes_first():
    assert last_number("12 or 15 (see Q3)") == 15
    assert last_number(r"\boxed{7}, which took 2 steps") == 7
    assert last_number(r"\boxed{none}, 2") == 2
    assert last_number("none") is None


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{C}", "C"),
        (r"\boxed{\text{C}}", "C"),
        (r"\boxed{\textbf{\text{ C }}}", "C"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\fboxed{3}", "3"),
        (r"\boxed {5}", "5"),
        (r"\boxed{50\%}", "50%"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\text{a} + \text{b}}", r"\text{a} + \text{b}"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{1} \boxed{2", "1"),
        (r"\boxed{ oops, again: \boxed{C}", "C"),
        (r"\boxed{}", ""),
        (r"\boxed{C", None),
        ("boxed{C}", None),
    ],
)
def test_results_13_the_last_closed_box_is_the_final_answer(text, content):
    assert boxed(text) == content


@pytest.mark.parametrize(
    "part",
    ["1", "111,", ".123", "\\boxed{", "{", "1 x 10 ", "1e", "\\text{", "\\frac{", "\\frac12", "1/", "1/2 ", "-$"],
)
def test_long_hostile_texts_are_read_in_linear_time(part):
    begun = time.process_time()
    last_number(part * (60_000 // len(part)))
    assert time.process_time() - begun < 3
