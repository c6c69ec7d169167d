"""Verdicts are read from what judges write: broad in phrasing, never from the article, never from contradictions."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis.strategies import sampled_from, text

from studio.evaluation.verdicts import TIE, parse_verdict


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Answer B is a better answer.", "B"),
        ("The better answer is B, as A is vague.", "B"),
        ("I'd take B over A.", "B"),
        ("Overall, A does a better job than B.", "A"),
        ("I rate B higher than A.", "B"),
        ("B is not as good as A.", "A"),
        ("A > B", "A"),
        ("The first answer is better.", "A"),
        ("Answer 2 is better.", "B"),
        ("Answer B is more accurate.", "B"),
        ("ANSWER B IS BETTER", "B"),
        ("I think it is A", "A"),
        ("A is better in style, but B is better.\n\nVerdict: B", "B"),
        (r"\boxed{A}", "A"),
    ],
)
def test_results_01_sentences_that_name_the_better_answer_are_read(reply, verdict):
    assert parse_verdict(reply) == verdict


@pytest.mark.parametrize(
    "reply",
    [
        "Both are equal.", "both are equal", "Tie.", "TIE", "[[TIE]]", "[[C]]", "Verdict: tie", "It's a tie.",
        "They are equally good.", "A and B are equally good.", "I call it a draw.", "A = B",
        "There is no clear winner.",
    ],
)  # fmt: skip
def test_results_01_equal_answers_are_a_tie(reply):
    assert parse_verdict(reply) == TIE


@pytest.mark.parametrize(
    "reply",
    [
        "", "a", "b", "A better answer would say more.", "A good answer names a city.", "A or B", "A, B", "A/B",
        "Neither A nor B", "Neither A nor B is good.", "None of them", "not B", "[[A]] [[B]]", "Verdict: A or B",
        "Verdict: A, B, or TIE", "Verdict: A better answer would be longer.", "Is A better?", "It depends.",
        "A is better. B is better.", "Verdict: A. Answer B is better.", "A is not better than B.", "Both are fine.",
        "I do not think that B is better.", "I am not sure whether A is better.",
        "If A were whole, it would be better.",
        "Answer A is vague.", "<think>A is better", "A is better than B, but B is better than A.",
    ],
)  # fmt: skip
def test_results_01_a_reply_that_says_neither_or_both_has_no_verdict(reply):
    assert parse_verdict(reply) is None


@pytest.mark.parametrize(
    "reply",
    [
        "Conclusion: A is wrong and B is right.", "Decision: A was incorrect, so B.", "Answer: B is wrong.",
        "Verdict: A has errors.", "Correct choice: B. Answer A picks it.", "Correct answer: B",
        "The correct choice is B. Answer A picks it, answer B does not.", "The correct answer is B.",
        "Answer A chose B as the option, which is right. Answer B chose C.",
        "Answer: B. Answer A picks it, answer B does not.", "The best option is B, and answer A says so.",
        r"Answer A writes \boxed{B}, and answer B writes nothing at the end.",
        "A gives a better explanation, but B is right.", "A is better in parts, but answer B is the correct one.",
    ],
)  # fmt: skip
def test_results_01_a_letter_that_is_not_called_better_is_no_verdict(reply):
    assert parse_verdict(reply) is None


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (
            "Option A provides a better explanation, but Option B provides the correct answer and is better overall.",
            "B",
        ),
        ("Answer A gives a better explanation.", "A"),
        ("Answer A provides the better answer.", "A"),
        ("Verdict: B is better, as A is wrong.", "B"),
        ("Verdict: B because A is wrong.", "B"),
        ("Verdict: (B)", "B"),
        ("Verdict: A (more complete)", "A"),
        ("Decision: B over A", "B"),
        ("Answer: B", "B"),
        ("My choice is B.", "B"),
        ("I prefer B.", "B"),
        ("I would choose A here.", "A"),
        ("I compare [[A]] with [[B]].\n\n[[B]]", "B"),
        ("The correct choice is B, which answer A picks.\n\n[[A]]", "A"),
    ],
)
def test_results_01_a_label_a_choice_of_the_judge_and_its_last_line_are_read(reply, verdict):
    assert parse_verdict(reply) == verdict


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("I weigh [[A]] against [[B]].\n</think>\n\n[[B]]", "B"),
        ("A is better.\n</thinking>\nVerdict: B", "B"),
        ("<think>[[A]]" + " so" * 10_000 + "</think>[[B]]", "B"),
        ("<think>A is better." + " so" * 10_000 + " [[A]]", None),
        ("<think>a</think> [[A]] </think> [[B]]", "B"),
    ],
)
def test_results_01_thoughts_are_no_verdict_wherever_they_begin(reply, verdict):
    assert parse_verdict(reply) == verdict


@given(text(alphabet=sampled_from("AB abetris.,:\n[]*"), max_size=60))
@settings(max_examples=300, deadline=None)
def test_results_01_lower_case_never_gives_a_letter(reply):
    assert parse_verdict(reply.lower()) in (None, TIE)


@pytest.mark.parametrize(
    "part", ["A ", "A is ", "better ", "Verdict: ", "(", "[[", "not ", "both are ", "my the ", "{"]
)
def test_a_long_hostile_reply_is_read_in_linear_time(part):
    begun = time.process_time()
    parse_verdict(part * 20_000)
    assert time.process_time() - begun < 3
