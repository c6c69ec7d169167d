"""What the preview process says of a recipe's model and first rows, asked in threads so that the panel never waits."""

from __future__ import annotations

import json
import threading
import time
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
from studio.ui.viewer import Viewer

_KEPT = 32  # examinations
_HUB_SECONDS = 300  # after which rows of the Hub are looked at again
_THREADS = 4


class StillExamining(Exception):
    """The model's files and the first rows are still being looked at."""


class Examinations:
    """What the preview process says of recipes (``studio.training.launch_check.Examined``), asked in threads."""

    def __init__(self, viewer: Viewer):
        self._viewer = viewer
        self._lock = threading.Lock()
        self._going: dict[str, Future] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="examine")

    def of(self, recipe: Recipe, patience: float) -> Examined:
        """What is known of a recipe.

        Raises:
            StillExamining: it takes longer than so many seconds.
        """
        key = self._key(recipe)
        with self._lock:
            if key not in self._going:
                while len(self._going) >= _KEPT:
                    self._going.pop(next(iter(self._going))).cancel()
                self._going[key] = self._pool.submit(self._examine, key, recipe)
            future = self._going[key]
        try:
            return future.result(timeout=patience)
        except (FutureTimeout, CancelledError) as error:
            raise StillExamining from error

    def _examine(self, key: str, recipe: Recipe) -> Examined:
        try:
            return self._viewer.examine(recipe)
        except StudioError as error:  # the process did not answer; the next look asks again
            with self._lock:
                self._going.pop(key, None)
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
