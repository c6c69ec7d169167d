"""Asks the process that reads and encodes rows (``studio.training.view``), and ends it if it does not answer."""

from __future__ import annotations

import pickle
import queue
import subprocess
import sys
import threading
from typing import Any

from studio.data.conversations import Survey
from studio.errors import StudioError
from studio.recipe import Recipe
from studio.training.view import View, Wanted
from studio.workspace import ASSETS

_SECONDS = 30  # for an answer, from a process that has started
_START_SECONDS = 60  # more, if it has to start first


class Viewer:
    """One process for the whole studio, started when it is first asked; one request at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._answers: queue.Queue = queue.Queue()
        self._lock = threading.Lock()

    def view(self, wanted: Wanted) -> View:
        """The wanted rows.

        Raises:
            StudioError: they cannot be shown, or the process does not answer.
        """
        return self._ask(("view", wanted))

    def template(self, recipe: Recipe) -> str:
        """The text of the chat template that a recipe uses."""
        return self._ask(("template", recipe))

    def survey(self, recipe: Recipe) -> Survey:
        """What one pass over a dataset tells.

        Raises:
            StudioError: it cannot be read, no row can be trained on, or the process does not answer.
        """
        return self._ask(("survey", recipe))

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _ask(self, request: tuple[str, Any]) -> Any:
        with self._lock:
            seconds = _SECONDS
            if self._process is None or self._process.poll() is not None:
                self._start()
                seconds += _START_SECONDS
            try:
                pickle.dump(request, self._process.stdin)
                self._process.stdin.flush()
                made = self._answers.get(timeout=seconds)
            except (queue.Empty, OSError) as error:
                self._end()
                raise StudioError(
                    f"The rows could not be shown within {seconds} seconds.",
                    "Look for a loop in the chat template, or for rows of many megabytes.",
                ) from error
            if made is None:
                self._end()
                raise StudioError(
                    "The process that shows the rows ended without a word.",
                    "It may have run out of memory. Show other rows, or another dataset.",
                )
        if isinstance(made, StudioError):
            raise made
        return made

    def _start(self) -> None:
        self._end()
        self._answers = queue.Queue()
        command = "from studio.training.view import main; main()"  # with -m the answers were classes of __main__
        self._process = subprocess.Popen(
            [sys.executable, "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ASSETS.parent,
        )
        threading.Thread(target=self._listen, args=(self._process.stdout, self._answers), daemon=True).start()

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

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.stdin.close()
            self._process.wait()
            self._process = None
