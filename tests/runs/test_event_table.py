"""Numbers of events as columns, whatever the events look like and however they are cut into portions."""

import math

import numpy as np
import pytest

from studio.runs.event_table import Table


def step(number, **fields):
    return {"kind": "step", "step": number, **fields}


def values(table, name):
    return [None if math.isnan(v) else v for v in table.column(name).tolist()]


def filled(*portions):
    table = Table()
    for events in portions:
        table.add(events)
    return table


def test_events_become_columns():
    table = filled([step(1, loss=0.5, epoch=0.1), step(2, loss=0.25, epoch=0.2)])
    assert values(table, "step") == [1, 2]
    assert values(table, "loss") == [0.5, 0.25]
    assert values(table, "epoch") == [0.1, 0.2]


def test_a_field_that_comes_later_or_not_always_is_missing_elsewhere():
    table = filled([step(1, loss=1.0)], [step(2, loss=2.0, extra=7), step(3, extra=None)], [step(4, loss=4.0)])
    assert values(table, "loss") == [1, 2, None, 4]
    assert values(table, "extra") == [None, 7, None, None]


@pytest.mark.parametrize("strange", ["text", [1], {"a": 1}, True, 10**400])
def test_what_is_no_number_makes_no_column(strange):
    table = filled([step(1, loss=1.0, strange=strange), step(2, loss=2.0, strange=strange)])
    assert values(table, "loss") == [1, 2]
    assert strange is True or "strange" not in table.names


def test_an_event_without_a_step_is_passed_over():
    assert values(filled([{"kind": "step", "loss": 3.0}, step(2, loss=1.0)]), "loss") == [1.0]


def test_steps_that_come_again_replace_those_from_there_on():
    table = filled([step(n, loss=float(n)) for n in range(1, 6)], [step(3, loss=30.0)])
    assert values(table, "loss") == [1, 2, 30]
    assert table.redone == 1


def test_steps_that_come_again_within_a_portion_replace_those_from_there_on():
    steps = [1, 2, 3, 4, 2, 3, 3]
    table = filled([step(n, loss=10.0 * place) for place, n in enumerate(steps)])
    assert values(table, "step") == [1, 2, 3]
    assert values(table, "loss") == [0, 40, 60]


def test_arrays_that_were_handed_out_stay_as_they_were():
    table = filled([step(n, loss=float(n)) for n in range(1, 6)])
    before = table.columns()
    for number in [3, *range(4, 2000)]:
        table.add([step(number, loss=-1.0)])
    assert before["loss"].tolist() == [1, 2, 3, 4, 5]
    assert not before["loss"].flags.writeable


def test_portions_give_the_same_table_as_the_whole():
    events = [step(n, loss=1.0 / n, **({"late": n} if n > 50 else {})) for n in [*range(1, 100), *range(70, 120)]]
    assert filled(events) == filled(*[[event] for event in events])


def test_the_columns_of_a_million_rows_take_eight_bytes_a_number():
    table = filled([{"kind": "step", "step": n, "loss": 0.0} for n in range(10_000)])
    assert table.nbytes <= 2 * 10_000 * np.float64().nbytes * 1.25 + 2048


@pytest.mark.parametrize("strange", [math.inf, -math.inf, math.nan, None, 1e301])
@pytest.mark.parametrize("alike", [True, False])
def test_results_14_what_is_not_finite_is_missing_however_the_events_look(strange, alike):
    more = {} if alike else {"text": "x"}
    table = filled([step(1, loss=1.0), step(2, loss=strange), step(3, loss=3.0, **more)])
    assert values(table, "loss") == [1, None, 3]
