"""The report: every count is what was put in, and every finding names its rows."""

from dataclasses import replace

import numpy
import pytest

from studio.data import Encoded
from studio.data.conversations import Conversation
from studio.data.inspect_row import inspect_row
from studio.data.quality_report import Examiner, Index, Report, examine
from studio.errors import StudioError
from studio.recipe import DataSpec


def said(row: int, *texts: str, roles: str = "") -> Conversation:
    """A conversation of these texts; ``roles`` are their first letters, user and assistant by turns if empty."""
    names = {"s": "system", "u": "user", "a": "assistant"}
    letters = roles or "ua" * len(texts)
    return Conversation(row, [{"role": names[r], "content": t} for r, t in zip(letters, texts, strict=False)])


def encoded(length: int = 4, trained: int = 2, cut: int = 0) -> Encoded:
    return Encoded(list(range(length)), [-100] * (length - trained) + [1] * trained, cut=cut)


def report(*rows, holdout: float = 0.0, batch_size: int = 2, max_length: int = 512) -> Report:
    data = DataSpec(holdout=holdout, max_length=max_length)
    return examine(rows, data, batch_size=batch_size, seed=0)


def found(result: Report) -> dict[str, list[int]]:
    return {finding.kind: [row for row, _ in finding.rows] for finding in result.findings}


def test_rows_tokens_and_trained_share_are_counted_on_the_examples():
    result = report((said(1, "q", "a"), encoded(10, 3)), (said(2, "r", "b", "c", "d"), encoded(6, 2)))
    assert (result.rows, result.kept, result.tokens, result.trained_tokens) == (2, 2, 16, 5)
    assert result.turns == [(2, 1), (4, 1)]
    assert result.padding == pytest.approx(4 / 20)
    assert result.findings == []


def test_dropped_and_refused_rows_are_named_with_the_reason():
    result = report(
        (Conversation(3, dropped="no assistant turn"), None),
        (said(7, "q", "a"), StudioError("The chat template refuses this conversation.", "")),
        (Conversation(8, dropped="its answer is marked as unwanted", unwanted=True), None),
        (said(9, "q", "a"), Encoded([], [], dropped="no token carries loss")),
    )
    assert (result.rows, result.kept) == (4, 0)
    assert found(result) == {"refused": [7], "dropped": [3], "unwanted": [8], "masked": [9]}


def test_the_histogram_holds_every_kept_row_once_at_its_whole_length():
    lengths = [1, 5, 80, 81, 399]
    rows = [(said(n, f"q{n}", "a"), encoded(min(n, 100), 1, max(0, n - 100))) for n in lengths]
    result = report(*rows, max_length=100)
    assert sum(count for _, count in result.histogram) == 5
    assert result.longest == 399
    filled = [start for start, count in result.histogram if count]
    assert all(any(start <= n < start + result.bin_tokens for start in filled) for n in lengths)
    assert found(result) == {"too_long": [399]}


def test_the_same_conversation_in_other_case_and_blanks_is_a_duplicate():
    result = report(
        (said(1, "Hello  there", "Yes"), encoded()),
        (said(2, "hello there", "yes "), encoded()),
        (said(3, "hello there!", "yes"), encoded()),
    )
    assert found(result) == {"duplicate": [2], "near_duplicate": [3]}


def test_another_answer_to_the_same_prompt_is_a_contradiction():
    result = report((said(1, "q", "yes"), encoded()), (said(2, "q", "no"), encoded()), (said(3, "r", "no"), encoded()))
    assert found(result) == {"contradiction": [2]}


def test_a_prompt_on_both_sides_of_the_split_is_a_leak():
    rows = [(said(n, f"question {n // 2}", f"answer {n}"), encoded()) for n in range(1, 81)]
    leaks = set(found(report(*rows, holdout=0.5))["leak"])
    assert 0 < len(leaks) < 40
    assert not found(report(*rows, holdout=0.0)).get("leak")


@pytest.mark.parametrize(
    ("roles", "wrong"),
    [("ua", False), ("sua", False), ("uaua", False), ("au", True), ("uua", True), ("usa", True), ("uau", True)],
)
def test_turns_out_of_order_are_found(roles, wrong):
    result = report((said(4, *[f"text {n}" for n in range(len(roles))], roles=roles), encoded()))
    assert found(result) == ({"roles": [4]} if wrong else {})


@pytest.mark.parametrize(
    ("ending", "cut"),
    [(" and then the", True), (" the end.", False), (" 终。", False), ("\n#### 72", False), ("\nThanks", False)],
)
def test_a_long_answer_that_stops_in_mid_sentence_is_found(ending, cut):
    result = report((said(5, "q", "word " * 60 + ending), encoded()))
    assert found(result) == ({"cut_answer": [5]} if cut else {})


def test_keys_are_found_and_never_shown_whole():
    secret = "AKIA" + "Q" * 16
    result = report(
        (said(6, "q", f"use {secret} please"), encoded()), (said(8, "mail a.b@example.org", "ok"), encoded())
    )
    assert found(result) == {"secret": [6], "email": [8]}
    assert secret not in result.to_json()


def test_a_finding_counts_all_rows_and_names_the_first():
    result = report(*[(said(n, "q", "a"), encoded()) for n in range(1, 202)])
    (duplicates,) = result.findings
    assert duplicates.count == 200
    assert len(duplicates.rows) == 50


def test_a_report_survives_its_file():
    result = report((said(1, "q", "يوم"), encoded()), (said(2, "q", "b"), encoded()))
    assert Report.from_json(result.to_json()) == result


def test_rows_that_differ_in_case_alone_never_leak_across_the_split():
    rows = [(said(n, f"{'Q' if n % 2 else 'q'}uestion {n // 2}", "same"), encoded()) for n in range(2, 82)]
    result = report(*rows, holdout=0.5)
    assert len(found(result)["duplicate"]) == 40
    assert "leak" not in found(result)
    assert result.held_out % 2 == 0


def long(topic: int) -> str:
    """Forty words of its own for each topic."""
    return " ".join(f"word{topic}x{place}" for place in range(40))


def test_a_row_that_is_nearly_another_is_a_near_duplicate_and_on_its_side():
    rows = [(said(n, f"case {n // 2}", f"{long(n // 2)} {'!' * (n % 2)}"), encoded()) for n in range(2, 42)]
    result = report(*rows, holdout=0.4)
    assert len(found(result)["near_duplicate"]) == 20
    assert result.held_out % 2 == 0


def test_packing_counts_the_room_that_is_used():
    rows = [(said(n, f"q{n}", "a"), encoded(length)) for n, length in enumerate([6, 4, 5, 5, 3], 1)]
    assert report(*rows, max_length=10).packing == pytest.approx(23 / 30)


def test_the_rows_of_a_weight_are_counted_as_often_as_they_are_used():
    result = report((replace(said(1, "q", "a"), copies=3), encoded(10, 4)), (said(2, "r", "b"), encoded(6, 2)))
    assert (result.rows, result.kept, result.tokens, result.trained_tokens) == (2, 4, 36, 14)


def test_rows_can_be_chosen_by_finding_and_by_length():
    examiner = Examiner(DataSpec(holdout=0), batch_size=2)
    for number, length, cut in ((1, 4, 0), (2, 8, 5), (3, 6, 0), (4, 8, 1)):
        examiner.add(inspect_row(said(number, f"q{number}", "a"), encoded(length, 1, cut), 0))
    examiner.add(inspect_row(Conversation(9, dropped="no assistant turn"), None, 0))
    examiner.report()
    index = examiner.index()
    assert index.chosen().tolist() == [1, 2, 3, 4, 9]
    assert index.chosen("too_long", "longest").tolist() == [2, 4]
    assert index.chosen(order="shortest").tolist() == [1, 3, 4, 2]
    assert index.chosen("dropped").tolist() == [9]
    assert index.chosen("secret").tolist() == []


def test_an_index_is_read_back_as_it_was_written(tmp_path):
    index = Index(numpy.array([1, 5]), numpy.array([7, 0]), {"dropped": numpy.array([5])})
    index.save(tmp_path / "index.npz")
    assert Index.load(tmp_path / "index.npz").chosen("dropped").tolist() == [5]
