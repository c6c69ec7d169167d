"""The numbers of a run as a CSV: one row a step, measurements beside their steps."""

import csv
import io

import pytest

from studio.recipe import Recipe
from studio.runs import EventLog, Run
from studio.runs.export import metrics_csv
from studio.runs.feed import Feed

pytestmark = pytest.mark.usefixtures("home")


def table(*events):
    run = Run.create(Recipe())
    log = EventLog(run.events_path)
    for kind, fields in events:
        log.write(kind, **fields)
    log.close()
    text = b"".join(metrics_csv(Feed().look(run))).decode()
    return list(csv.DictReader(io.StringIO(text)))


def test_each_step_is_a_row_with_the_numbers_of_its_event():
    rows = table(*[("step", {"step": n, "loss": 1 / n, "tokens": 10 * n}) for n in (1, 2, 4)])
    assert [row["step"] for row in rows] == ["1", "2", "4"]
    assert [float(row["loss"]) for row in rows] == [1.0, 0.5, 0.25]
    assert [row["tokens"] for row in rows] == ["10", "20", "40"]


def test_a_measurement_stands_beside_its_step():
    rows = table(
        ("step", {"step": 1, "loss": 1.0}), ("step", {"step": 2, "loss": 0.5}),
        ("eval", {"step": 2, "loss": 0.7, "accuracy": 0.9}),
    )  # fmt: skip
    assert [(row["eval_loss"], row["eval_accuracy"]) for row in rows] == [("", ""), ("0.7", "0.9")]


def test_a_measurement_between_two_logged_steps_has_a_row_of_its_own():
    rows = table(("step", {"step": 10, "loss": 1.0}), ("eval", {"step": 14, "loss": 0.7}))
    assert [(row["step"], row["loss"], row["eval_loss"]) for row in rows] == [("10", "1", ""), ("14", "", "0.7")]
    assert all(float(row["time"]) > 1e9 for row in rows)


def test_steps_that_were_done_again_stand_there_once():
    rows = table(*[("step", {"step": n, "loss": float(place)}) for place, n in enumerate([1, 2, 3, 2, 3])])
    assert [(row["step"], row["loss"]) for row in rows] == [("1", "0"), ("2", "3"), ("3", "4")]


def test_a_number_that_is_not_known_is_an_empty_field():
    assert [row["loss"] for row in table(("step", {"step": 1, "loss": None}), ("step", {"step": 2, "loss": 0.5}))] == [
        "",
        "0.5",
    ]


def test_a_run_without_steps_is_a_header():
    assert table(("started", {})) == []


def test_results_14_what_was_no_number_is_an_empty_field():
    run = Run.create(Recipe())
    words = ("0.5", "null", "NaN", "Infinity", "0.25")
    lines = [f'{{"time": 1, "kind": "step", "step": {n}, "loss": {word}}}\n' for n, word in enumerate(words, 1)]
    run.events_path.write_text("".join(lines), encoding="utf-8")
    text = b"".join(metrics_csv(Feed().look(run))).decode()
    assert [row["loss"] for row in csv.DictReader(io.StringIO(text))] == ["0.5", "", "", "", "0.25"]
