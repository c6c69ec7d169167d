"""Looks after the models that Compare has in memory: idle ones go after a while, or when a training run needs room."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from studio.errors import StudioError
from studio.models.machine import machine_memory
from studio.runs import Run
from studio.ui import markup, views

if TYPE_CHECKING:
    from studio.ui.context import AppContext

IDLE_SECONDS = 600
_LOOK_SECONDS = 5.0


class IdleModelUnloader:
    """One for the whole studio.

    Args:
        free: the memory of the machine as ``machine_memory`` gives it.
    """

    def __init__(self, context: AppContext, free: Any = machine_memory):
        self._desk, self._free = context, free
        self._said = ""
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def watch(self) -> None:
        """Begin to look for idle models, once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="idle-model-unloader", daemon=True)
            self._thread.start()

    def close(self) -> None:
        self._closed.set()

    def _loop(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Release what nobody has spoken with for a while."""
        engine = self._desk.opened_engine
        gone = engine.release_idle(IDLE_SECONDS) if engine else []
        if gone:
            self._said = f"{_names(gone)}: not used for {IDLE_SECONDS // 60} minutes and released; loaded when asked."

    def make_room(self, run: Run) -> None:
        """Release idle models if a run that is about to start on their device has less free memory than it needs."""
        engine = self._desk.opened_engine
        if not engine or not engine.loaded() or run.recipe.train.device not in ("auto", self._desk.device):
            return
        needed = self._needed(run)
        if needed is None or self._free()["free_bytes"] >= needed:
            return
        if gone := engine.release_idle():
            self._said = f"{_names(gone)}: released to make room for the training of {run.id}; loaded when asked."

    def _needed(self, run: Run) -> int | None:
        """The memory that a run takes by the estimate, in bytes."""
        from studio.models import store

        try:
            numbers = self._desk.known.numbers(run.recipe, store.local_folder(run.recipe.model), None)
        except (StudioError, OSError, json.JSONDecodeError):  # the run itself says what is wrong
            return None
        return numbers.memory_bytes["total"] if numbers else None

    def line(self) -> str:
        """What is in memory and until when, in one line of HTML."""
        engine = self._desk.opened_engine
        held = []
        for entry in engine.loaded() if engine else []:
            left = max(0, IDLE_SECONDS - entry["idle"])
            when = f"goes in {views.duration(left)} without use" if entry["idle"] else "answering"
            held.append(f"{entry['name']} ({views.size(entry['bytes'])}, {when})")
        parts = [f"In memory: {', '.join(held)}."] if held else []
        parts += [self._said] if self._said else []
        return f'<p class="note">{markup.escape(" ".join(parts))}</p>' if parts else ""


def _names(entries: list[dict[str, Any]]) -> str:
    return ", ".join(f"{entry['name']} ({views.size(entry['bytes'])})" for entry in entries)
