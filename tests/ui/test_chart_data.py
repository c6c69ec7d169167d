"""What the charts are sent: everything once, then only what is new, and never more than the plot can show."""

import numpy as np
import orjson
import pytest

from studio.recipe import Recipe
from studio.runs import EventLog, Run
from studio.runs.decimate import PER_BUCKET
from studio.runs.feed import Feed
from studio.ui.runs import charts
from studio.ui.runs.chart_data import SMALL, answer

pytestmark = pytest.mark.usefixtures("home")
WIDTH = 100


@pytest.fixture
def run():
    return Run.create(Recipe(name="drawn"))


def write(run, numbers, spike=None, **fields):
    lines = [
        {"time": 100.0 + n, "kind": "step", "step": n, "loss": 50.0 if n == spike else 1.0 / n, "tokens": 7 * n}
        | fields
        for n in numbers
    ]
    with run.events_path.open("ab") as file:
        file.write(b"".join(orjson.dumps(line) + b"\n" for line in lines))


def asked(run, have=None, feed=None, **request):
    whole = {"axis": "step", "width": WIDTH, "small": 50, "smoothing": 0.6, "have": have, **request}
    look = (feed or Feed()).reader(run).wait()
    return orjson.loads(orjson.dumps(answer(look, whole)))


def places(curve):
    packed = curve["x"]
    return (np.cumsum([packed["first"], *packed["next"]]) * packed["unit"]).tolist()


def test_a_short_run_is_sent_whole_with_its_very_numbers(run):
    write(run, range(1, 8), learning_rate=0.1)
    curves = asked(run)["curves"]
    steps, losses = run.view().curves["loss"]
    assert places(curves["loss"]) == steps
    assert curves["loss"]["y"] == losses
    assert curves["loss"]["all"]
    assert places(curves["learning_rate"]) == steps


def test_then_only_what_is_new_is_sent(run):
    feed = Feed()
    write(run, range(1, 8))
    have = asked(run, feed=feed)["have"]
    write(run, [8, 9])
    news = asked(run, have, feed)
    assert not news["whole"]
    assert places(news["curves"]["loss"]) == [8, 9]
    assert asked(run, news["have"], feed)["curves"] == {}


def test_a_restarted_studio_goes_on_where_the_page_is(run):
    write(run, range(1, 8))
    have = asked(run, feed=Feed())["have"]
    write(run, [8])
    assert places(asked(run, have, Feed())["curves"]["loss"]) == [8]


def test_steps_that_are_done_again_are_sent_whole(run):
    feed = Feed()
    write(run, range(1, 8))
    have = asked(run, feed=feed)["have"]
    write(run, [5, 6])
    news = asked(run, have, feed)
    assert news["whole"]
    assert places(news["curves"]["loss"]) == [1, 2, 3, 4, 5, 6]


def test_a_long_run_has_no_more_points_than_the_plot_can_show_and_keeps_its_spike(run):
    write(run, range(1, 5000), spike=3333)
    loss = asked(run)["curves"]["loss"]
    assert len(loss["y"]) <= PER_BUCKET * WIDTH
    assert (3333, 50.0) in zip(places(loss), loss["y"], strict=True)
    assert not loss["all"]
    assert len(loss["smooth"]["y"]) <= PER_BUCKET * WIDTH


def test_a_range_is_sent_with_all_its_points(run):
    write(run, range(1, 5000))
    loss = asked(run, range=[1000, 1200])["curves"]["loss"]
    assert places(loss) == list(range(999, 1202))
    assert loss["y"] == [1.0 / n for n in range(999, 1202)]


def test_the_average_of_a_range_is_that_of_the_whole_run(run):
    write(run, range(1, 5001), spike=990)
    inside = asked(run, range=[1000, 1100], smoothing=0.9)["curves"]["loss"]["smooth"]
    weight, mean = 0.9 ** (WIDTH / 5000), 0.0  # from column to column of pixels
    for n in range(1, 1001):
        mean = weight * mean + (1 - weight) * (50.0 if n == 990 else 1.0 / n)
    mean /= 1 - weight**1000
    assert inside["y"][places({"x": inside["x"]}).index(1000)] == pytest.approx(mean, rel=1e-4)


def test_tokens_and_time_are_axes_too(run):
    write(run, range(1, 6))
    EventLog(run.events_path).write("eval", step=3, loss=0.5)
    assert places(asked(run, axis="tokens")["curves"]["loss"]) == [7, 14, 21, 28, 35]
    assert places(asked(run, axis="tokens")["curves"]["eval_loss"]) == [21]
    assert places(asked(run, axis="time")["curves"]["loss"]) == [0, 1, 2, 3, 4]


def test_an_axis_that_the_run_does_not_have_is_not_offered(run):
    log = EventLog(run.events_path)
    log.write("step", step=1, loss=1.0)
    assert asked(run)["axes"] == ["step", "time"]
    assert places(asked(run, axis="tokens")["curves"]["loss"]) == [1]


def test_a_curve_without_numbers_is_not_there(run):
    write(run, range(1, 4), grad_norm=None)
    assert set(asked(run)["curves"]) & {"grad_norm", *SMALL[4:]} == set()


def test_a_warning_stands_on_the_loss_at_its_step(run):
    write(run, range(1, 6))
    log = EventLog(run.events_path)
    log.write("warning", what="Too fast.", fix="Slow down.", step=4)
    log.write("warning", what="Of no step.")
    (warning,) = asked(run)["warnings"]
    assert (warning["x"], warning["y"], warning["text"]) == (4, 0.25, "Too fast. Slow down.")


def test_a_warning_that_comes_after_its_page_is_sent_with_the_news(run):
    feed = Feed()
    write(run, range(1, 6))
    have = asked(run, feed=feed)["have"]
    EventLog(run.events_path).write("warning", what="Too fast.", step=4)
    assert [w["step"] for w in asked(run, have, feed)["warnings"]] == [4]


@pytest.mark.parametrize(
    "request_", [{}, {"width": "x", "small": None}, {"range": ["a", None]}, {"axis": "?"}, {"smoothing": "nan"}]
)
def test_a_senseless_request_is_answered(run, request_):
    write(run, range(1, 1000))
    assert asked(run, **request_)["curves"]["loss"]["y"]


def test_a_run_with_nothing_new_is_not_even_read(run):
    feed = Feed()
    write(run, range(1, 8))
    first = charts.points(feed, {"runs": [{"run": run.id}], "width": WIDTH})
    again = {"runs": [{"run": run.id, "have": first[run.id]["have"]}], "width": WIDTH}
    untouched = Feed()
    assert charts.points(untouched, again) == {}
    assert not untouched._readers


def test_a_run_drawn_over_another_has_its_losses_only(run):
    other = Run.create(Recipe(name="other"))
    for one in (run, other):
        write(one, range(1, 8), learning_rate=0.1)
    said = charts.points(Feed(), {"runs": [{"run": run.id}, {"run": other.id}], "width": WIDTH})
    assert "learning_rate" in said[run.id]["curves"]
    assert set(said[other.id]["curves"]) == {"loss"}


def test_a_run_that_is_gone_has_no_answer(run):
    assert charts.points(Feed(), {"runs": [{"run": "gone"}, {"run": "../etc"}, {}]}) == {}


@pytest.fixture
def listed(run):
    """The line of a run with points in the list of runs, and what the chart answers for a line."""
    from studio.runs.index import RunIndex

    write(run, range(1, 8))
    index = RunIndex()
    return lambda name: charts.points(Feed(), {"runs": [{"label": f"{name}{charts.SEPARATOR}finished"}]}, index)


def test_a_run_is_found_by_its_line_in_the_list(run, listed):
    assert set(listed(run.id)) == {run.id}
    run.label.changed(name="My best · so far").write(run.folder)
    assert set(listed("My best · so far")) == {run.id}


def test_a_name_that_two_runs_have_finds_neither(run, listed):
    other = Run.create(Recipe(name="other"))
    other.label.changed(name="twin").write(other.folder)
    run.label.changed(name="twin").write(run.folder)
    assert listed("twin") == {}


def holed(run, gaps, until=10, **more):
    """A run in which the loss of some steps was logged and was no number."""
    lines = [
        {"time": 100.0 + n, "kind": "step", "step": n, "loss": None if n in gaps else 1.0 / n} for n in range(1, until)
    ]
    with run.events_path.open("ab") as file:
        file.write(b"".join(orjson.dumps(line) + b"\n" for line in lines))


def test_results_14_a_loss_that_is_no_number_is_a_gap_in_the_curve(run):
    holed(run, {4, 5})
    loss = asked(run)["curves"]["loss"]
    assert places(loss) == list(range(1, 10))
    assert loss["y"] == [None if n in {4, 5} else 1.0 / n for n in range(1, 10)]
    assert loss["all"]


def test_results_14_nan_and_infinity_in_the_file_are_gaps_too(run):
    for n, word in enumerate(("0.5", "NaN", "0.25", "Infinity", "0.125", "-Infinity"), 1):
        with run.events_path.open("ab") as file:
            file.write(f'{{"time": {n}, "kind": "step", "step": {n}, "loss": {word}}}\n'.encode())
    assert asked(run)["curves"]["loss"]["y"] == [0.5, None, 0.25, None, 0.125, None]


def test_results_14_a_gap_that_comes_later_is_sent_with_the_news(run):
    feed = Feed()
    write(run, range(1, 8))
    have = asked(run, feed=feed)["have"]
    EventLog(run.events_path).write("step", step=8, loss=float("nan"))
    write(run, [9])
    news = asked(run, have, feed)["curves"]["loss"]
    assert (places(news), news["y"]) == ([8, 9], [None, 1 / 9])


def test_results_14_a_gap_is_seen_in_a_curve_that_is_reduced_and_in_its_average(run):
    holed(run, range(2000, 2050), until=5000)
    loss = asked(run)["curves"]["loss"]
    for curve in (loss, loss["smooth"]):
        drawn = dict(zip(places(curve), curve["y"], strict=True))
        assert [step for step, value in drawn.items() if value is None] == [2000]
        assert {1999, 2050} <= set(drawn)
    assert loss["smooth"]["last"] == pytest.approx(loss["smooth"]["y"][-1], rel=1e-5)


def test_results_14_a_series_that_is_logged_now_and_then_has_no_gaps(run):
    log = EventLog(run.events_path)
    for n in range(1, 30):
        log.write("step", step=n, loss=1.0 / n, **({"grad_norm": 1.0} if n % 10 == 0 else {}))
    curve = asked(run)["curves"]["grad_norm"]
    assert (places(curve), curve["y"]) == ([10, 20], [1.0, 1.0])


def test_results_14_an_evaluation_that_is_no_number_is_a_gap(run):
    log = EventLog(run.events_path)
    for n in range(1, 7):
        log.write("step", step=n, loss=1.0)
        log.write("eval", step=n, loss=float("inf") if n == 3 else 0.5)
    assert asked(run)["curves"]["eval_loss"]["y"] == [0.5, 0.5, None, 0.5, 0.5, 0.5]
