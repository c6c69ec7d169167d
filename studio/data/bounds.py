"""A limit on the time of what comes from strangers: a chat template that loops for ever."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

from studio.errors import StudioError


class TooSlow(StudioError):
    """A chat template did not end in time."""


class _Late(BaseException):
    """No ``Exception``: it has to get through whatever a template's own code catches."""


@contextlib.contextmanager
def time_limit(seconds: float, late: StudioError | None = None) -> Iterator[None]:
    """Raise ``TooSlow``, or the error ``late``, if the block takes longer.

    It works in the main thread of a process that has alarms; elsewhere, and inside a limit that ends sooner, it does
    nothing.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    outer = signal.getitimer(signal.ITIMER_REAL)[0]
    if 0 < outer <= seconds:
        yield
        return

    def ring(*_: object) -> None:
        raise _Late  # through the template's own frames

    begun = time.monotonic()
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _Late:
        if late is not None:
            raise late from None
        raise TooSlow(
            f"The chat template did not end within {seconds:g} seconds.",
            "Look for a loop in it, or set data.chat_template to chatml.",
            field="data.chat_template",
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if outer:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, outer - (time.monotonic() - begun)))
