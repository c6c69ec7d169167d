"""Metrics against values computed by hand."""

from __future__ import annotations

import math
import random
import re

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis.strategies import text
from rouge_score import rouge_scorer

from studio.errors import StudioError
from studio.evaluation import exact_match, mean, metrics, perplexity


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


def random_texts(count: int) -> list[tuple[str, str]]:
    numbers = random.Random(5)
    words = re.findall(r"\S+", "the a cat dog sat on mat, and 12 runs! Über straße naïve {x} end. quick brown fox")
    return [tuple(" ".join(numbers.choices(words, k=numbers.randint(1, 25))) for _ in range(2)) for _ in range(count)]


def test_overlaps_are_those_of_the_reference_libraries_to_the_last_digit():
    rouge = rouge_scorer.RougeScorer(["rougeL"])
    for output, reference in random_texts(200):
        if any("a" <= c <= "z" for c in reference.lower()):
            assert metrics.rouge_l(output, reference) == rouge.score(reference, output)["rougeL"].fmeasure
        assert metrics.bleu(output, reference) == sacrebleu.sentence_bleu(output, [reference]).score
        assert metrics.chrf(output, reference) == sacrebleu.sentence_chrf(output, [reference]).score


def test_rouge_sees_words_of_every_script():
    assert metrics.rouge_l("кошка спит", "кошка спит") == 1
    assert metrics.rouge_l("собака спит", "кошка спит") == 0.5
    assert metrics.rouge_l("猫在睡觉", "猫在跑步") == 0.5
    assert metrics.rouge_l("", "кошка") == 0


def test_results_02_an_answer_of_signs_alone_overlaps_with_itself():
    assert metrics.rouge_l("+", "+") == 1
    assert metrics.rouge_l("-", "+") == 0


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "[NaN]", '{"a": NaN}'])
def test_results_10_what_json_has_no_word_for_is_not_valid_json(word):
    assert metrics.json_valid(word, '{"a": 1}') == 0
    assert metrics.json_fields(word, '{"a": 1}') == 0


def test_json_of_any_depth_and_with_any_whole_number_is_scored():
    deep = "[" * 500 + "1" + "]" * 500
    assert metrics.json_fields(deep, deep) == 1
    assert metrics.json_fields(deep, '{"a": 1}') == 0
    assert metrics.json_fields(f'{{"a": {"1" * 5000}}}', f'{{"a": {"1" * 5000}}}') == 1


@pytest.mark.parametrize(
    ("output", "reference", "same"),
    [
        ("The  Cat.", "cat", True),
        ("«Кот»!", "кот", True),
        ("cat", "cats", False),
        ("theory", "ory", False),
        ("ＡＢＣ", "abc", True),
    ],
)
def test_normalised_match_leaves_out_case_punctuation_and_articles(output, reference, same):
    assert metrics.normalized_match(output, reference) is same


@pytest.mark.parametrize(
    ("output", "reference", "valid", "fields"),
    [
        ('{"a": 1, "b": [1, 2]}', '{"a": 1, "b": [1, 2]}', 1, 1),
        ('```json\n{"a": 1}\n```', '{"a": 1, "b": [1, 2]}', 1, 1 / 3),
        ('{"a": true}', '{"a": 1}', 1, 0),
        ('{"a": 1.0}', '{"a": 1}', 1, 1),
        ("no json", '{"a": 1}', 0, 0),
        ("{}", "{}", 1, 1),
        ("[" * 100_000, '{"a": 1}', 0, 0),
        ("5", "plain text", None, None),
        ("5", "5", None, None),
    ],
)
def test_json_is_compared_by_its_values(output, reference, valid, fields):
    assert metrics.json_valid(output, reference) == valid
    assert metrics.json_fields(output, reference) == (fields if fields is None else pytest.approx(fields))


@pytest.mark.parametrize(
    ("output", "reference", "valid"),
    [
        ("def f():\n    return 1", "def g():\n    return 2", 1),
        ("def f(:\n", "def g():\n    return 2", 0),
        ("Here:\n```python\nx = 1\n```", "```python\nx = 2\n```", 1),
        ("```python\nx = \n```", "```python\nx = 2\n```", 0),
        ("", "x = 2", 0),
        ("(" * 5000, "x = 2", 0),
        ("hello", "hello", None),
        ("a sentence, as it is", "Plain words here.", None),
    ],
)
def test_code_is_parsed_where_the_reference_has_code(output, reference, valid):
    assert metrics.python_valid(output, reference) == valid


@pytest.mark.parametrize(
    ("output", "looped"),
    [
        ("I think so. I think so. I think so. I think so.", 1),
        ("word " * 20, 1),
        ("ha" * 30, 1),
        ("1, 2, 3, 4, 5, 6, 7, 8, 9, 10", 0),
        ("One line.\nAnother line.\nA third line.", 0),
        ("-" * 80, 0),
        ("", 0),
    ],
)
def test_an_answer_that_ends_in_the_same_piece_over_and_over_loops(output, looped):
    assert metrics.loops(output, "") == looped


@pytest.mark.parametrize(
    ("output", "reference", "refused"),
    [
        ("I'm sorry, but I can't help with that.", "Sure: 5.", 1),
        ("As an AI language model, I cannot say.", "Sure.", 1),
        ("I cannot provide that.", "I cannot provide this.", 0),
        ("You cannot divide by zero.", "No.", 0),
    ],
)
def test_a_refusal_counts_where_the_reference_is_none(output, reference, refused):
    assert metrics.refuses(output, reference) == refused


def test_distinct_pairs_and_lengths():
    assert metrics.distinct("a b a b", "") == pytest.approx(2 / 3)
    assert metrics.distinct("one", "") is None
    assert metrics.length_ratio("one two", "one two three four") == 0.5
    assert metrics.length_ratio("one", "") is None


def test_a_persons_own_metric_is_an_expression_with_the_reference_in_it():
    ends = metrics.custom("ends", r"{reference}\s*$")
    assert ends.score("The sum is 5.0", "5.0") == 1
    assert ends.score("The sum is 5x0", "5.0") == 0


def test_an_expression_that_is_none_or_never_ends_is_refused():
    with pytest.raises(StudioError, match="no regular expression"):
        metrics.custom("bad", "(")
    slow = metrics.custom("slow", r"^(?:a|aa|aaa)+$")
    with pytest.raises(StudioError, match="takes too long"):
        slow.score("a" * 5000 + "b", "")


@pytest.mark.parametrize("metric", metrics.METRICS.values(), ids=lambda metric: metric.key)
@given(output=text(max_size=200), reference=text(max_size=200))
@settings(max_examples=40, deadline=None)
def test_no_text_breaks_a_metric(metric, output, reference):
    score = metric.score(output, reference)
    assert score is None or score >= 0
    if metric.share and score is not None:
        assert score <= 1
