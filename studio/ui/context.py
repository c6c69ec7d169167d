"""What the tabs share: launcher, live feed, inference engine, work of other processes, what is known of recipes."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.models import store
from studio.models.machine import machine_memory
from studio.recipe import Recipe
from studio.runs import Launcher
from studio.runs.feed import Feed
from studio.ui.data.preview_process import Viewer
from studio.ui.idle_models import IdleModelUnloader
from studio.ui.job_manager import JobManager
from studio.ui.recipe_summary import RecipeSummary


class AppContext:
    """One object for the whole studio, passed to every tab. Loads no model and no torch until something needs them."""

    def __init__(self, launcher: Launcher):
        self.launcher = launcher
        self.feed = Feed()
        self.index = launcher.index
        self.viewer = Viewer()
        self.machine = machine_memory()
        self.stops: dict[str, Any] = {}  # by browser: the answers that are being written
        self.rounds: dict[str, Any] = {}  # by browser: the round of blind judging (``studio.ui.compare.judging``)
        self.downloads = Path(tempfile.mkdtemp(prefix="sft-studio-"))  # Gradio hands out no file of the workspace
        self.suites: dict[str, Any] = {}  # by browser: the suite that is asked of its panes
        self._engine: Any = None
        self.on_zero_gpu: Any = None  # what answers instead of the engine on a Space with ZeroGPU
        self.idle_unloader = IdleModelUnloader(self)
        launcher.before_start = self.idle_unloader.make_room
        self.background = JobManager(self.downloads)
        self.known = RecipeSummary(self.viewer, self.machine, self.index, self.feed, patience=0.4)
        self._lock = threading.Lock()

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``, as ``train.device: auto`` would take it."""
        return self.known.device

    # the model

    @property
    def engine(self) -> Any:
        """The inference engine, made on first use."""
        with self._lock:
            if self._engine is None:
                from studio.inference import Engine

                self._engine = Engine()
                self.idle_unloader.watch()
            return self._engine

    @property
    def opened_engine(self) -> Any:
        """The inference engine if it was ever used, else None."""
        return self._engine

    def settle_on_zero_gpu(self) -> None:
        """Where this is a Space with ZeroGPU, let answers be computed where the GPU is. Call it once, at the start."""
        from studio.inference import zerogpu

        if zerogpu.on_zero_gpu():
            self.on_zero_gpu = zerogpu.answering(self.engine)

    @staticmethod
    def without_model(recipe: Recipe) -> bool:
        """Whether the chosen model is still to be fetched."""
        try:
            return store.local_folder(recipe.model) is None
        except StudioError:  # it cannot be had as it is named
            return False
