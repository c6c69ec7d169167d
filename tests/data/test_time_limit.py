"""The limit on processor time: what computes too long ends, and a busy machine does not decide the outcome."""

import signal
import threading
import time

import pytest

from studio.data.time_limit import TooSlow, time_limit
from studio.errors import StudioError


def test_waiting_does_not_count_as_processor_time():
    with time_limit(0.1):
        time.sleep(0.4)


def test_other_threads_do_not_count():
    over = threading.Event()

    def burn():
        while not over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=burn)
    thread.start()
    try:
        with time_limit(0.3):
            time.sleep(0.5)
    finally:
        over.set()
        thread.join()


def test_a_loop_ends_and_the_alarm_of_others_stays():
    before = signal.getitimer(signal.ITIMER_REAL)[0]  # the test runner may have one of its own
    with pytest.raises(TooSlow), time_limit(0.2):
        while True:
            pass
    assert signal.getitimer(signal.ITIMER_PROF)[0] == 0
    assert signal.getitimer(signal.ITIMER_REAL)[0] == pytest.approx(before, abs=10)


def test_waiting_for_ever_ends_at_the_backstop():
    with pytest.raises(TooSlow), time_limit(0.05):
        time.sleep(20)


@pytest.mark.parametrize(("outer", "inner"), [(0.2, 5), (5, 0.2)])
def test_of_two_limits_the_one_that_ends_sooner_names_its_error(outer, inner):
    late = StudioError("outer", "fix")
    with pytest.raises(StudioError) as caught, time_limit(outer, late), time_limit(inner):
        while True:
            pass
    assert (caught.value is late) == (outer < inner)
