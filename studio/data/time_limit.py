"""A limit on the time of what comes from strangers: a chat template that loops for ever."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

from studio.errors import StudioError

_WALL_FACTOR = 10  # on a busy machine a thread gets a share of a core


class TooSlow(StudioError):
    """A chat template did not end in time."""


class _Late(BaseException):
    """No ``Exception``: it has to get through whatever a template's own code catches."""

    def __init__(self, limit: object):
        super().__init__()
        self.limit = limit


@contextlib.contextmanager
def time_limit(seconds: float, late: StudioError | None = None, wall: float | None = None) -> Iterator[None]:
    """Raise ``TooSlow``, or the error ``late``, if the block takes longer.

    It works in the main thread of a process that has alarms; elsewhere it does nothing. Inside another limit the one
    that ends sooner holds.

    Args:
        seconds: of processor time of this thread, so that a busy machine does not decide the outcome.
        wall: seconds of the clock on the wall, for what waits without computing; None is ten times ``seconds``.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    mine = object()
    try:
        with (
            _alarm(signal.ITIMER_PROF, signal.SIGPROF, seconds, time.thread_time, mine),
            _alarm(signal.ITIMER_REAL, signal.SIGALRM, wall or seconds * _WALL_FACTOR, time.monotonic, mine),
        ):
            yield
    except _Late as error:
        if error.limit is not mine:
            raise
        if late is not None:
            raise late from None
        raise TooSlow(
            f"The chat template did not end within {seconds:g} seconds of processor time.",
            "Look for a loop in it, or set data.chat_template to chatml.",
            field="data.chat_template",
        ) from None


@contextlib.contextmanager
def _alarm(timer: int, number: int, seconds: float, clock: Callable[[], float], limit: object) -> Iterator[None]:
    """Raise ``_Late`` in the block when a clock has gone on by so many seconds.

    The timer of processor time counts all threads of the process, so the alarm looks at the thread's own clock again.
    """
    outer = signal.getitimer(timer)[0]
    if 0 < outer <= seconds:
        yield
        return
    begun = clock()

    def ring(*_: object) -> None:
        left = seconds - (clock() - begun)
        if left > 0.001:
            signal.setitimer(timer, left)
        else:
            raise _Late(limit)  # through the template's own frames

    before = signal.signal(number, ring)
    signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        signal.setitimer(timer, 0)
        signal.signal(number, before)
        if outer:
            signal.setitimer(timer, max(0.001, outer - (clock() - begun)))
