"""What the worker is doing before and after the steps, as ``progress`` events at a pace that a person can follow."""

from __future__ import annotations

import time

from studio.runs import EventLog


class Progress:
    """Call it as often as you like; it writes when the stage changes, at its end, and at most twice a second."""

    def __init__(self, log: EventLog):
        self._log = log
        self._what = ""
        self._time = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` (bytes or rows; 0 of 0 if it cannot be counted) of the stage ``what``."""
        now = time.monotonic()
        if what == self._what and now - self._time < 0.5 and done < total:
            return
        self._what, self._time = what, now
        self._log.write("progress", what=what, done=done, total=total)
