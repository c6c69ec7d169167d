"""Asks the processes that read and encode rows (``studio.training.row_preview``), and ends one that does not answer.

A few processes serve all browsers. A browser session has one request in work at a time, so a slow dataset of one user
leaves the other processes to the others; its newest request takes the place of its older ones of the same kind.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from studio.data.conversations import Survey
from studio.errors import StudioError
from studio.jobs.environment import without_secrets
from studio.recipe import Recipe
from studio.runs.secrets import needed_secrets
from studio.training.launch_check import Examined
from studio.training.row_preview import View, Wanted
from studio.workspace import ASSETS

_PROCESSES = 3  # at most, at a time
_SECONDS = 30  # for an answer, from a process that has started
_START_SECONDS = 60  # more, if it has to start first
_WAIT_SECONDS = 60  # for a process that is free
_GRACE_SECONDS = 1.0  # for a request whose session asks for something else
_BACKGROUND = ("launch", "survey")  # requests that no one waits for; they leave one process to the others
_BACKGROUND_GRACE_SECONDS = 5.0  # they change with every edit, and a process takes seconds to start
_IDLE_SECONDS = 60.0  # until a process that nobody needs is ended; the last one stays

UNANSWERED = ("busy", "superseded")
"""Of errors of requests that no process has answered: they say nothing about the recipe."""
PROCESS_CODES = (*UNANSWERED, "preview_ended", "preview_too_slow", "preview_memory")
"""Of errors that tell about a process at one moment, not about the recipe or its files: they are not kept."""

_Kind = tuple[frozenset[str], bool]  # of a process: the secrets that it has, and whether it may run a model's own code


class Superseded(StudioError):
    """The same browser has asked for something newer."""

    def __init__(self, *arguments: Any):
        text = "A newer request has taken the place of this one."
        super().__init__(*(arguments or (text, "", None, "superseded")))


class Viewer:
    """The processes for the whole studio, each started when it is first needed.

    Args:
        most: how many processes there are at most.
    """

    def __init__(self, most: int = _PROCESSES) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._idle: list[_Process] = []  # the one used last is the last
        self._busy: dict[int, tuple[_Request, _Process]] = {}
        self._waiting: list[_Request] = []
        self._newest: dict[tuple[str, str], int] = {}  # by session and kind of request
        self._numbers = itertools.count(1)

    def view(self, wanted: Wanted, session: str = "") -> View:
        """The wanted rows.

        Args:
            session: of the browser that asks; empty for one that is not known.

        Raises:
            StudioError: they cannot be shown, or the process does not answer.
            Superseded: the session has asked for other rows since.
        """
        return self._ask("view", wanted, wanted.recipe, session)

    def template(self, recipe: Recipe, session: str = "") -> str:
        """The text of the chat template that a recipe uses."""
        return self._ask("template", recipe, recipe, session)

    def survey(self, recipe: Recipe, session: str = "") -> Survey:
        """What one pass over a dataset tells.

        Raises:
            StudioError: it cannot be read, no row can be trained on, or the process does not answer.
            Superseded: the session has asked for another dataset since.
        """
        return self._ask("survey", recipe, recipe, session)

    @property
    def pids(self) -> list[int]:
        """The processes that there are; the one used last is the last."""
        with self._changed:
            return [process.pid for process in (*self._idle, *(process for _, process in self._busy.values()))]

    def examine(self, recipe: Recipe, session: str = "") -> Examined:
        """What the model's files and the first rows of the data tell (``studio.training.launch_check``).

        Raises:
            StudioError: the process does not answer.
            Superseded: the session has asked for another recipe since.
        """
        return self._ask("launch", recipe, recipe, session)

    def readable(self, recipe: Recipe, session: str = "") -> None:
        """Read the rows of a local dataset once.

        Raises:
            StudioError: they cannot be read, whatever columns are chosen.
            Superseded: the session has uploaded something else since.
        """
        self._ask("readable", recipe, recipe, session)

    def close(self) -> None:
        """End the processes."""
        with self._changed:
            for process in (*self._idle, *(process for _, process in self._busy.values())):
                process.end()
            self._idle.clear()

    def _ask(self, what: str, given: Any, recipe: Recipe, session: str) -> Any:
        request = _Request(next(self._numbers), what, session, _kind_of(recipe))
        with self._process(request) as process:
            try:
                made = process.ask((what, given))
            except StudioError:
                if request.superseded:
                    raise Superseded from None
                raise
        if isinstance(made, StudioError):
            raise made
        return made

    @contextlib.contextmanager
    def _process(self, request: _Request) -> Iterator[_Process]:
        """A process for a request, once it is its turn."""
        with self._changed:
            self._supersede(request)
            self._waiting.append(request)
            try:
                process = self._wait_for(request)
            finally:
                self._waiting.remove(request)
                self._changed.notify_all()
            self._busy[request.number] = (request, process)
        try:
            yield process
        finally:
            with self._changed:
                del self._busy[request.number]
                if process.alive and not request.kind[1]:  # what a model's own code has touched is not used again
                    self._idle.append(process)
                    self._end_later()
                else:
                    process.end()
                if self._newest.get(request.owner) == request.number:
                    del self._newest[request.owner]
                self._changed.notify_all()

    def _supersede(self, request: _Request) -> None:
        """Let an older request of the same session and kind go."""
        if not request.session:
            return
        self._newest[request.owner] = request.number
        for older, process in self._busy.values():
            if older.owner == request.owner:
                grace = _BACKGROUND_GRACE_SECONDS if older.background else _GRACE_SECONDS
                timer = threading.Timer(grace, self._end_if_busy, (older, process))
                timer.daemon = True
                timer.start()
        self._changed.notify_all()

    def _end_if_busy(self, older: _Request, process: _Process) -> None:
        with self._changed:
            if older.number in self._busy:
                older.superseded = True
                process.end()

    def _wait_for(self, request: _Request) -> _Process:
        end = time.monotonic() + _WAIT_SECONDS
        while True:
            if request.session and self._newest.get(request.owner) != request.number:
                raise Superseded
            if self._is_next(request) and (process := self._free(request.kind)):
                return process
            left = end - time.monotonic()
            if left <= 0:
                raise StudioError(
                    "The processes that read datasets are all busy.", "Wait a moment, then try again.", code="busy"
                )
            self._changed.wait(left)

    def _is_next(self, request: _Request) -> bool:
        """Whether this request has waited longest among those that may have a process now.

        A session that has one in work waits. Its rows go before what is asked in the background. Background requests
        leave one process to the others.
        """
        working = {other.session for other, _ in self._busy.values() if other.session}
        foreground = {other.session for other in self._waiting if other.session and not other.background}
        background = sum(other.background for other, _ in self._busy.values())
        full = background >= max(1, self._most - 1)

        def may_go(other: _Request) -> bool:
            held_up = other.background and (full or other.session in foreground)
            return other.session not in working and not held_up

        return next(filter(may_go, self._waiting), None) is request

    def _free(self, kind: _Kind) -> _Process | None:
        """A process of this kind that has nothing to do, or a new one; None if there are as many as there may be."""
        self._idle = [process for process in self._idle if process.alive]
        for process in reversed(self._idle):
            if process.kind == kind:
                self._idle.remove(process)
                return process
        if len(self._idle) + len(self._busy) >= self._most:
            if not self._idle:
                return None
            self._idle.pop(0).end()
        return _Process(kind)

    def _end_later(self) -> None:
        timer = threading.Timer(_IDLE_SECONDS, self._end_unused)
        timer.daemon = True
        timer.start()

    def _end_unused(self) -> None:
        """End the processes that were not used for a while; the last one stays warm."""
        with self._changed:
            before = time.monotonic() - _IDLE_SECONDS
            for process in self._idle[:-1]:
                if process.used <= before:
                    self._idle.remove(process)
                    process.end()


class _Request:
    def __init__(self, number: int, what: str, session: str, kind: _Kind):
        self.number, self.session, self.kind = number, session, kind
        self.owner = (session, what)
        self.background = what in _BACKGROUND
        self.superseded = False


class _Process:
    """One process that answers requests, one at a time."""

    def __init__(self, kind: _Kind):
        self.kind, self.used = kind, time.monotonic()
        self._answers: queue.Queue = queue.Queue()
        self._fresh = True
        command = "from studio.training.row_preview import main; main()"  # with -m the answers were classes of __main__
        self._process = subprocess.Popen(
            [sys.executable, "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ASSETS.parent,
            env=without_secrets(kind[0]),
        )
        threading.Thread(target=self._listen, args=(self._process.stdout, self._answers), daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: tuple[str, Any]) -> Any:
        """The answer to a request; a :class:`StudioError` may be one.

        Raises:
            StudioError: there is no answer; the process has ended then.
        """
        seconds = _SECONDS + (_START_SECONDS if self._fresh else 0)
        self._fresh = False
        try:
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
            made = self._answers.get(timeout=seconds)
        except (queue.Empty, OSError, ValueError) as error:  # the last one: its pipe has been closed
            self.end()
            raise StudioError(
                f"The rows could not be shown within {seconds} seconds.",
                "Look for a loop in the chat template, or for rows of many megabytes.",
                code="preview_too_slow",
            ) from error
        self.used = time.monotonic()
        if made is None:
            self.end()
            raise StudioError(
                "The process that shows the rows exited without reporting an error.",
                "It may have run out of memory. Show other rows, or another dataset.",
                code="preview_ended",
            )
        return made

    def end(self) -> None:
        """Kill it; safe to call more than once and from several threads."""
        self._process.kill()
        with contextlib.suppress(OSError):  # bytes that it has not taken any more
            self._process.stdin.close()
        self._process.wait()

    @staticmethod
    def _listen(output: Any, answers: queue.Queue) -> None:
        """Put each answer into the queue, and None when there are no more."""
        try:
            while True:
                answers.put(pickle.load(output))
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            return
        finally:
            answers.put(None)
            output.close()


def _kind_of(recipe: Recipe) -> _Kind:
    secrets = needed_secrets(recipe, model_is_here=True, reports=False)
    return frozenset(secrets & os.environ.keys()), recipe.model.trust_remote_code
