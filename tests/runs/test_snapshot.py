"""The view: events folded into curves, progress and an estimate, the same however they are cut into portions."""

import pytest

from studio.runs import RunSnapshot


def event(kind, time=0.0, **fields):
    return {"time": time, "kind": kind, **fields}


def steps(numbers, **fields):
    return [event("step", time=float(n), step=n, loss=1.0 / n, **fields) for n in numbers]


def test_steps_become_curves():
    view = RunSnapshot().add(steps([1, 2, 4], learning_rate=0.1))
    assert view.curves["loss"] == ([1, 2, 4], [1.0, 0.5, 0.25])
    assert view.curves["learning_rate"] == ([1, 2, 4], [0.1, 0.1, 0.1])


def test_evaluations_become_a_curve_of_their_own():
    view = RunSnapshot().add([*steps([1, 2]), event("eval", step=2, loss=0.7)])
    assert view.curves["eval_loss"] == ([2], [0.7])
    assert view.eval_loss == 0.7


def test_the_last_step_is_the_state():
    view = RunSnapshot().add([event("started", max_steps=9), *steps([1, 2], epoch=0.5, tokens=64)])
    assert (view.step, view.max_steps, view.loss, view.epoch, view.tokens) == (2, 9, 0.5, 0.5, 64)


def test_steps_that_a_resumed_run_does_again_replace_the_old_ones():
    again = [event("started", max_steps=6), event("step", step=3, loss=9.0), event("step", step=4, loss=8.0)]
    view = RunSnapshot().add([*steps([1, 2, 3, 4, 5]), event("eval", step=5, loss=0.1), *again])
    assert view.curves["loss"] == ([1, 2, 3, 4], [1.0, 0.5, 9.0, 8.0])
    assert view.step == 4


def test_evaluations_after_the_step_that_a_run_resumes_from_are_replaced():
    view = RunSnapshot().add([event("eval", step=2, loss=1.0), event("eval", step=4, loss=0.5)])
    view.add([event("started"), event("eval", step=4, loss=0.6), event("eval", step=6, loss=0.4)])
    assert view.curves["eval_loss"] == ([2, 4, 6], [1.0, 0.6, 0.4])


def test_a_loss_that_is_not_a_number_leaves_a_gap_in_its_curve_only():
    view = RunSnapshot().add([event("step", step=1, loss=1.0), event("step", step=2, loss=None, learning_rate=0.1)])
    assert view.curves["loss"] == ([1], [1.0])
    assert view.curves["learning_rate"] == ([2], [0.1])
    assert view.step == 2


@pytest.mark.parametrize("kind", ["finished", "stopped", "failed"])
def test_a_terminal_event_ends_the_view(kind):
    view = RunSnapshot().add([event("started"), event(kind)])
    assert view.ended["kind"] == kind
    assert view.stage is None


def test_a_resumed_run_has_not_ended():
    assert RunSnapshot().add([event("stopped"), event("queued"), event("started")]).ended is None


def test_a_stage_lasts_until_the_next_step():
    view = RunSnapshot().add([event("progress", what="Loading the model", done=0, total=0)])
    assert view.stage["what"] == "Loading the model"
    assert view.add(steps([1])).stage is None


def test_warnings_and_checkpoints_are_collected():
    view = RunSnapshot().add([event("warning", what="a", fix="b"), event("checkpoint", step=1, path="p")])
    assert [w["what"] for w in view.warnings] == ["a"]
    assert [c["path"] for c in view.checkpoints] == ["p"]


def test_an_unknown_kind_changes_nothing_but_the_time():
    view = RunSnapshot().add([event("from-the-future", time=5.0)])
    assert view == RunSnapshot(last_time=5.0)


@pytest.mark.parametrize("kind", ["add", "point", "other", "post_init", "", "_end"])
def test_the_name_of_a_kind_reaches_nothing_else_of_the_view(kind):
    assert RunSnapshot().add([event(kind)]) == RunSnapshot(last_time=0.0)


def test_portions_fold_to_the_same_view_as_the_whole():
    events = [event("started", max_steps=5), *steps(range(1, 6)), event("eval", step=5, loss=1.0), event("finished")]
    whole, portions = RunSnapshot().add(events), RunSnapshot()
    for one in events:
        portions.add([one])
    assert portions == whole


def test_the_time_left_goes_by_the_pace_so_far():
    view = RunSnapshot().add([event("started", max_steps=11), event("step", time=100.0, step=1)])
    assert view.seconds_left(100.0) is None
    view.add([event("step", time=104.0, step=3)])
    assert view.seconds_left(104.0) == pytest.approx(16.0)
    assert view.seconds_left(110.0) == pytest.approx(10.0)
    assert view.seconds_left(1000.0) == 0.0


def test_the_pace_of_a_resumed_run_is_that_of_its_own_steps():
    view = RunSnapshot().add([event("started", max_steps=20), *steps([1, 2, 3, 4])])
    view.add([event("started", time=5000.0, max_steps=20)])
    assert view.seconds_left(5000.0) is None
    view.add([event("step", time=5010.0, step=5), event("step", time=5011.0, step=6)])
    assert view.seconds_left(5011.0) == pytest.approx(14.0)


def test_a_run_that_has_ended_has_no_time_left():
    assert (
        RunSnapshot().add([event("started", max_steps=9), *steps([1, 2]), event("stopped")]).seconds_left(2.0) is None
    )
