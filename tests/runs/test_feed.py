"""One fold of a run for everybody: read once, kept beside the events, and given up when it does not fit them."""

import threading

import pytest

from studio.recipe import Recipe
from studio.runs import EventLog, Run, curve_cache, feed, read_events
from studio.runs.feed import Feed

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def run():
    return Run.create(Recipe(name="followed"))


@pytest.fixture
def short_portions(monkeypatch):
    """Every run is long: it is read by a thread, in portions of a few events, and kept."""
    monkeypatch.setattr(feed, "_AT_ONCE_BYTES", 0)
    monkeypatch.setattr(feed, "_SAVED_BYTES", 1)
    monkeypatch.setattr("studio.runs.events.PORTION_BYTES", 200)


def write(run, numbers, **fields):
    log = EventLog(run.events_path)
    for number in numbers:
        log.write("step", step=number, loss=1.0 / number, tokens=10 * number, **fields)
        if number % 10 == 0:
            log.write("eval", step=number, loss=2.0 / number)
    log.close()


def read_by(feed_or_reader, run):
    return feed_or_reader.reader(run).wait()


def test_a_look_sees_what_was_written_since_the_last_one(run):
    following = Feed()
    write(run, range(1, 4))
    assert following.look(run).points["step"].tolist() == [1, 2, 3]
    write(run, [4])
    assert following.look(run).points["step"].tolist() == [1, 2, 3, 4]


def test_a_run_without_events_has_no_points(run):
    look = Feed().look(run)
    assert look.points == {}
    assert look.reading is None


def test_many_at_once_share_one_fold(run, monkeypatch):
    write(run, range(1, 50))
    reads = []
    monkeypatch.setattr(feed, "read_events", lambda *a: reads.append(a) or read_events(*a))
    following, looks = Feed(), []
    threads = [threading.Thread(target=lambda: looks.append(following.look(run))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(looks) == 8
    assert all(len(look.points["step"]) == 49 for look in looks)
    assert len(reads) == 1


def test_a_long_run_is_read_in_the_background_to_the_same_points(run, short_portions):
    write(run, range(1, 300))
    look = Feed().look(run)
    assert look.reading is not None
    whole = read_by(Feed(), run)
    assert whole.reading is None
    assert whole.view == run.view()
    assert whole.size == run.events_path.stat().st_size


def test_a_run_that_was_read_once_is_not_read_again(run, short_portions, monkeypatch):
    write(run, range(1, 300))
    first = read_by(Feed(), run)
    assert (run.folder / curve_cache.NAME).exists()
    monkeypatch.setattr(feed, "read_portions", lambda *_: pytest.fail("read again"))
    again = Feed().look(run)
    assert again.view == first.view
    assert again.generation == first.generation


def test_what_was_kept_is_gone_on_from(run, short_portions):
    write(run, range(1, 100))
    read_by(Feed(), run)
    write(run, [50, 51, 100])  # resumed
    assert read_by(Feed(), run).view == run.view()


def test_what_was_kept_of_another_file_is_ignored(run, short_portions):
    write(run, range(1, 100))
    read_by(Feed(), run)
    run.events_path.unlink()
    write(run, range(1, 120), extra=1)
    assert read_by(Feed(), run).view == run.view()


@pytest.mark.parametrize("broken", [b"", b"PK\x03\x04", b"\x00" * 500])
def test_a_broken_sidecar_costs_only_time(run, short_portions, broken):
    write(run, range(1, 50))
    read_by(Feed(), run)
    (run.folder / curve_cache.NAME).write_bytes(broken)
    assert read_by(Feed(), run).view == run.view()


def test_half_of_a_sidecar_costs_only_time(run, short_portions):
    write(run, range(1, 50))
    read_by(Feed(), run)
    whole = (run.folder / curve_cache.NAME).read_bytes()
    (run.folder / curve_cache.NAME).write_bytes(whole[: len(whole) // 2])
    assert read_by(Feed(), run).view == run.view()


def test_a_folder_that_cannot_be_written_is_followed_all_the_same(run, short_portions, monkeypatch):
    monkeypatch.setattr(curve_cache, "save_file", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    write(run, range(1, 50))
    assert read_by(Feed(), run).view == run.view()
    assert sorted(p.name for p in run.folder.iterdir()) == ["events.jsonl", "recipe.yaml"]


def test_a_file_that_was_replaced_by_a_shorter_one_is_read_anew(run):
    following = Feed()
    write(run, range(1, 50))
    before = following.look(run)
    run.events_path.unlink()
    write(run, range(1, 5))
    after = following.look(run)
    assert after.points["step"].tolist() == [1, 2, 3, 4]
    assert after.generation != before.generation


def test_steps_that_are_done_again_make_a_new_generation(run):
    following = Feed()
    write(run, range(1, 20))
    before = following.look(run)
    write(run, [20])
    assert following.look(run).generation == before.generation
    write(run, [10])
    assert following.look(run).generation != before.generation


def test_runs_not_looked_at_for_longest_leave_the_memory_first(monkeypatch):
    following, runs = Feed(), [Run.create(Recipe(name=name)) for name in "abc"]
    for run in runs:
        write(run, range(1, 100))
    monkeypatch.setattr(feed, "_MEMORY_BYTES", 1.5 * following.reader(runs[0]).wait().view.points.nbytes)
    for run in runs:
        following.look(run)
    assert following.reader(runs[2]).view.points.rows == 99
    assert following.reader(runs[0]).view.points.rows == 0


def test_a_long_run_that_was_folded_is_there_at_the_first_look(run, short_portions):
    write(run, range(1, 101))
    feed.fold(run)
    look = Feed().look(run)
    assert look.reading is None
    assert look.points["step"].tolist() == list(range(1, 101))


def test_a_short_run_is_not_written_twice(run):
    write(run, range(1, 101))
    feed.fold(run)
    assert not (run.folder / curve_cache.NAME).exists()
