"""Which models are in memory: opened on demand, shared where they can be, unloaded when room is needed."""

from __future__ import annotations

import gc
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from studio.errors import StudioError
from studio.inference.load_plan import Plan, plan
from studio.inference.types import Target
from studio.inference.weights import Weights
from studio.jobs.progress import Report, quiet

_MEMORY_SHARE = 0.6  # of the device's memory, where no limit is given


@dataclass(frozen=True, eq=False)
class Handle:
    """An opened model, ready to generate. Valid as long as it is held, unless its adapter is unloaded to make room.

    Attributes:
        tokenizer: with the chat template; the run's own for a run.
        stop_ids: tokens that end the model's turn.
        context_length: tokens that prompt and answer may have together, or None if the model does not say.
        special_tokens_in_text: how prompts are encoded: as the rows that the run was trained on.
    """

    target: Target
    weights: Weights
    adapter: str | None
    tokenizer: Any
    stop_ids: frozenset[int]
    context_length: int | None
    special_tokens_in_text: str = "special"

    @property
    def name(self) -> str:
        return self.target.name


class Engine:
    """Opens base models and runs for generation. One object for the whole process; safe to use from many threads.

    A base and all adapters on it (same model, revision, number format, quantisation and chat template) share one copy
    of the weights: LoRA adapters live in one model and are switched, every other kind gets modules of its own around
    the same tensors. What has a copy of its own: a fully tuned run, an adapter other than LoRA on a quantised base, and
    one whose start changes the base.

    Args:
        device: ``auto`` takes a GPU if there is one.
        max_models: copies of weights kept; the one unused for longest goes first.
        max_bytes: memory for weights; None is 60 % of the device's. A single model may be larger.
        max_adapters: adapters kept on one base.
        clock: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        max_models: int = 4,
        max_bytes: int | None = None,
        max_adapters: int = 16,
        clock: Callable[[], float] = time.monotonic,
    ):
        assert max_models >= 1 and max_adapters >= 1
        self._wanted_device, self._clock = device, clock
        self._max_models, self._max_bytes, self._max_adapters = max_models, max_bytes, max_adapters
        self._loading = threading.RLock()  # one load at a time
        self._books = threading.Lock()  # for the two tables; never held while loading
        self._models: OrderedDict[tuple, Weights] = OrderedDict()
        self._handles: OrderedDict[tuple, tuple[tuple, Handle]] = OrderedDict()

    @property
    def device(self) -> str:
        """Where models are loaded: ``cpu``, ``cuda`` or ``mps``. Loads torch."""
        if self._wanted_device != "auto":
            return self._wanted_device
        import torch

        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"

    def open(self, target: Target | str, progress: Report = quiet) -> Handle:
        """Load a model (or find it loaded) and return a handle to it.

        Args:
            target: a Target, or ``base:MODEL`` or a run's id.
            progress: called with (what, bytes done, bytes in total).

        Raises:
            StudioError: there is no such run or model, the run has no tuned model yet, files are broken, or memory
                does not suffice.
        """
        wanted = plan(Target.parse(target) if isinstance(target, str) else target)
        if handle := self._opened(wanted):
            return handle
        with self._loading:
            if handle := self._opened(wanted):
                return handle
            handle = self._handle(wanted, self._weights(wanted, progress), progress)
            with self._books:
                self._handles[wanted.handle_key] = (wanted.key, handle)
            return handle

    def identity(self, target: Target) -> str:
        """A text that changes with all that changes what a target says: its files, its template, its number format.

        Raises:
            StudioError: as :meth:`open`.
        """
        return repr(plan(target).handle_key)

    def loaded(self) -> list[dict[str, Any]]:
        """What is in memory: ``{"name", "bytes", "device", "idle", "targets"}`` for each copy of weights, least used
        first; ``idle`` is for how many seconds nobody has spoken with it, 0 while somebody does."""
        with self._books:
            return [
                {
                    "name": weights.name,
                    "bytes": self._bytes(key),
                    "idle": weights.idle(),
                    "device": str(weights.device),
                    "targets": [handle.name for owner, handle in self._handles.values() if owner == key],
                }
                for key, weights in self._models.items()
            ]

    def release(self) -> None:
        """Unload everything. What is being generated goes on to its end and is freed then."""
        with self._books:
            self._models.clear()
            self._handles.clear()
        _collect()

    def release_idle(self, seconds: float = 0.0) -> list[dict[str, Any]]:
        """Unload the models that nobody has spoken with for so long, and return them as :meth:`loaded` had them.

        One that is answering, or being loaded, stays.
        """
        if not self._loading.acquire(blocking=False):
            return []
        try:
            before = self.loaded()
            with self._books:
                idle = [key for key, weights in self._models.items() if weights.idle() >= seconds and not weights.busy]
                names = [self._models[key].name for key in idle]
            for key in idle:
                self._forget(key)
            return [entry for entry in before if entry["name"] in names]
        finally:
            self._loading.release()

    def _bytes(self, key: tuple) -> int:
        """Memory of one copy of weights with every adapter on it; call it with the books."""
        seen = {id(h.weights): h.weights for owner, h in self._handles.values() if owner == key}
        seen[id(self._models[key])] = self._models[key]
        return sum(weights.bytes for weights in seen.values())

    def _opened(self, plan: Plan) -> Handle | None:
        with self._books:
            if plan.handle_key not in self._handles:
                return None
            self._models.move_to_end(plan.key)
            self._handles.move_to_end(plan.handle_key)
            return self._handles[plan.handle_key][1]

    def _weights(self, plan: Plan, progress: Report) -> Weights:
        with self._books:
            if plan.key in self._models:
                self._models.move_to_end(plan.key)
                return self._models[plan.key]
        from studio.models.chat import prepare_chat
        from studio.models.load import load_model, load_tokenizer
        from studio.models.processor import settle_threads
        from studio.models.store import fetch

        folder = fetch(plan.spec, progress=progress)
        self._make_room(sum(f.stat().st_size for f in folder.glob("*.safetensors")))
        progress(f"Loading {plan.target.name}", 0, 0)
        tokenizer = load_tokenizer(folder, trust_remote_code=plan.spec.trust_remote_code)
        if self.device == "cpu":
            settle_threads()
        model = load_model(plan.spec, device=self.device)
        prepare_chat(tokenizer, model, plan.chat_template)
        weights = Weights(plan.spec.id, model, tokenizer, self._clock)
        with self._books:
            self._models[plan.key] = weights
        return weights

    def _handle(self, plan: Plan, weights: Weights, progress: Report) -> Handle:
        from studio.models.load import load_tokenizer

        adapter, tokenizer = None, weights.tokenizer
        if plan.adapter:
            progress(f"Loading {plan.target.name}", 0, 0)
            self._make_adapter_room(plan.key)
            weights = weights if plan.switched else weights.share_tensors()
            if (plan.folder / "tokenizer_config.json").exists():  # an adapter from elsewhere may have none of its own
                tokenizer = load_tokenizer(plan.folder, trust_remote_code=plan.spec.trust_remote_code)
            try:
                adapter = weights.attach(plan.folder)
            except StudioError:
                if plan.switched:
                    self._forget(plan.key)  # PEFT may have changed the model half
                raise
        from studio.data.stops import stop_ids
        from studio.models.load import context_length

        return Handle(
            plan.target,
            weights,
            adapter,
            tokenizer,
            stop_ids(tokenizer, weights.model.generation_config),
            context_length(weights.model),
            plan.special_tokens_in_text,
        )

    def _make_room(self, coming: int) -> None:
        limit = self._max_bytes if self._max_bytes is not None else int(_MEMORY_SHARE * _device_memory(self.device))
        while True:
            with self._books:
                used = sum(self._bytes(key) for key in self._models)
                if not self._models or (len(self._models) < self._max_models and used + coming <= limit):
                    return
                oldest = next(iter(self._models))
            self._forget(oldest)

    def _make_adapter_room(self, key: tuple) -> None:
        while True:
            with self._books:
                mine = [(k, h) for k, (owner, h) in self._handles.items() if owner == key and h.adapter]
                if len(mine) < self._max_adapters:
                    return
                oldest, handle = mine[0]
                del self._handles[oldest]
            handle.weights.detach(handle.adapter)

    def _forget(self, key: tuple) -> None:
        with self._books:
            self._models.pop(key, None)
            for handle_key in [k for k, (owner, _) in self._handles.items() if owner == key]:
                del self._handles[handle_key]
        _collect()


def _device_memory(device: str) -> int:
    """The device's memory in bytes; for a GPU its own, otherwise the machine's."""
    import psutil
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total


def _collect() -> None:
    import sys

    gc.collect()
    if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
        torch.cuda.empty_cache()
