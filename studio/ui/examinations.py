"""What the preview process says of a recipe's model and first rows, asked in threads so that the panel never waits."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from studio.data.files import identity
from studio.data.sources import locate, split_in
from studio.data.sources import parts as sources
from studio.errors import StudioError
from studio.recipe import Recipe
from studio.training.check import tokenizer_key
from studio.training.launch_check import Examined
from studio.ui.data.preview_process import UNANSWERED, Viewer

_KEPT = 200  # answers
_HUB_SECONDS = 300  # after which rows of the Hub are looked at again
_THREADS = 32  # they only wait; how many processes they take is bounded by the viewer
_FAILED_SECONDS = 30.0  # that an error is shown before the question is asked again


class StillExamining(Exception):
    """The model's files and the first rows are still being looked at."""


class Answers:
    """Answers of the preview processes by a key, asked for in threads, and once for all browsers that want them."""

    def __init__(self, name: str) -> None:
        self._lock = threading.Lock()
        self._going: dict[str, Future] = {}
        self._failed: dict[str, float] = {}  # when an answer was an error
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix=name)

    def of(self, key: str, ask: Callable[[], Any], patience: float) -> Any:
        """The answer to a question. An error is the answer for a while, then the question is asked again.

        Raises:
            StillExamining: it takes longer than so many seconds, or no process has had time for it.
            StudioError: the answer is an error.
        """
        with self._lock:
            if time.monotonic() - self._failed.get(key, math.inf) > _FAILED_SECONDS:
                self._drop(key)
            if key not in self._going:
                while len(self._going) >= _KEPT:
                    self._drop(next(iter(self._going)))
                self._going[key] = self._pool.submit(self._answer, key, ask)
            future = self._going[key]
        try:
            return future.result(timeout=patience)
        except (FutureTimeout, CancelledError) as error:
            raise StillExamining from error
        except StudioError as error:
            if error.code in UNANSWERED:
                raise StillExamining from error
            raise

    def _answer(self, key: str, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except StudioError as error:
            with self._lock:
                if error.code in UNANSWERED:
                    self._drop(key)
                elif key in self._going:
                    self._failed[key] = time.monotonic()
            raise
        except BaseException:
            with self._lock:
                self._drop(key)
            raise

    def _drop(self, key: str) -> None:
        self._failed.pop(key, None)
        if future := self._going.pop(key, None):
            future.cancel()


class Examinations:
    """What the preview process says of recipes (``studio.training.launch_check.Examined``), asked in threads."""

    def __init__(self, viewer: Viewer):
        self._viewer = viewer
        self._answers = Answers("examine")

    def of(self, recipe: Recipe, patience: float, session: str = "") -> Examined:
        """What is known of a recipe.

        Args:
            session: of the browser that asks.

        Raises:
            StillExamining: it takes longer than so many seconds.
        """
        try:
            return self._answers.of(self._key(recipe), lambda: self._viewer.examine(recipe, session), patience)
        except StudioError as error:  # the process did not answer
            return Examined((error,))

    @staticmethod
    def _key(recipe: Recipe) -> str:
        """What an examination depends on: model and data settings, and the time stamps of their files. What is on
        the Hub can change, so it is asked for again after a while."""
        try:
            parts: list[Any] = [tokenizer_key(recipe)]
            places = [(locate(spec, spec.split), split_in(spec)) for spec in sources(recipe.data)]
            files = [identity(*place) for place in places if place[0]]
            parts += [files, int(time.time() // _HUB_SECONDS) if len(files) < len(places) else 0]
        except StudioError as error:
            parts = [str(error)]
        return json.dumps([parts, recipe.model.model_dump(), recipe.data.model_dump(mode="json")], default=str)
