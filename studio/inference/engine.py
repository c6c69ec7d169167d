"""Which models are in memory: opened on demand, shared where they can be, unloaded when room is needed."""

from __future__ import annotations

import contextlib
import gc
import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.inference.types import Target, pinned_model, template_of
from studio.inference.weights import Weights
from studio.models.progress import Report, quiet
from studio.recipe import ModelSpec, is_template_file
from studio.runs import Run

_SHARE = {"LORA"}  # adapters of these kinds live side by side on one copy of the base
_MEMORY_SHARE = 0.6  # of the device's memory, where no limit is given


@dataclass(frozen=True, eq=False)
class Handle:
    """An opened model, ready to generate. Valid as long as it is held, unless its adapter is unloaded to make room.

    Attributes:
        tokenizer: with the chat template; the run's own for a run.
        stop_ids: tokens that end the model's turn.
        context_length: tokens that prompt and answer may have together, or None if the model does not say.
    """

    target: Target
    weights: Weights
    adapter: str | None
    tokenizer: Any
    stop_ids: frozenset[int]
    context_length: int | None

    @property
    def name(self) -> str:
        return self.target.name


@dataclass(frozen=True)
class _Plan:
    """What opening a target takes: the weights (by ``key``), and the adapter on them, if any."""

    target: Target
    spec: ModelSpec
    chat_template: str
    key: tuple
    handle_key: tuple
    folder: Path | None = None  # the run's model folder
    adapter: bool = False


class Engine:
    """Opens base models and runs for generation. One object for the whole process; safe to use from many threads.

    A base and all LoRA runs on it (same model, revision, number format, quantisation and chat template) share one copy
    of the weights. A fully tuned run has its own.

    Args:
        device: ``auto`` takes a GPU if there is one.
        max_models: copies of weights kept; the one unused for longest goes first.
        max_bytes: memory for weights; None is 60 % of the device's. A single model may be larger.
        max_adapters: adapters kept on one base.
    """

    def __init__(
        self, *, device: str = "auto", max_models: int = 2, max_bytes: int | None = None, max_adapters: int = 16
    ):
        assert max_models >= 1 and max_adapters >= 1
        self._wanted_device = device
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
        plan = self._plan(Target.parse(target) if isinstance(target, str) else target)
        if handle := self._opened(plan):
            return handle
        with self._loading:
            if handle := self._opened(plan):
                return handle
            weights = self._weights(plan, progress)
            handle = self._handle(plan, weights, progress)
            with self._books:
                self._handles[plan.handle_key] = (plan.key, handle)
            return handle

    def identity(self, target: Target) -> str:
        """A text that changes with all that changes what a target says: its files, its template, its number format.

        Raises:
            StudioError: as :meth:`open`.
        """
        return repr(self._plan(target).handle_key)

    def loaded(self) -> list[dict[str, Any]]:
        """What is in memory: ``{"name", "bytes", "device", "targets"}`` for each copy of weights, least used first."""
        with self._books:
            return [
                {
                    "name": weights.name,
                    "bytes": weights.bytes,
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

    def _plan(self, target: Target) -> _Plan:
        _refuse_classifier(target)
        if target.kind == "base":
            assert target.model is not None
            key = self._key(target.model, target.chat_template)
            return _Plan(target, target.model, target.chat_template, key, ("base", target.name, *key))
        if target.kind == "adapter":
            return self._plan_adapter(target)
        run = Run.open(target.run_id)
        if not run.has_model:
            raise StudioError(
                f"The run {run.id} has no tuned model yet (it is {run.status}).",
                "Wait until it has finished, or stop it to get the model as it is; a failed run has none.",
            )
        recipe, folder = run.recipe, run.model_dir
        stamp = (run.id, _changed(folder))
        if (folder / "adapter_config.json").exists():
            spec, template = pinned_model(recipe), template_of(run, recipe)
            kind = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("peft_type")
            key = self._key(spec, template) + (() if kind in _SHARE else stamp)
            return _Plan(target, spec, template, key, ("run", *stamp), folder, adapter=True)
        spec = ModelSpec(id=str(folder), dtype=recipe.model.dtype, trust_remote_code=recipe.model.trust_remote_code)
        return _Plan(target, spec, "auto", (*self._key(spec, "auto"), *stamp), ("run", *stamp), folder)

    def _plan_adapter(self, target: Target) -> _Plan:
        """An adapter of a folder or of the Hub, on the base that it names."""
        from studio.models.continued import base_of, find_adapter

        folder = find_adapter(target.adapter)
        spec = target.model or ModelSpec(id=base_of(folder))
        kind = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("peft_type")
        stamp = (str(folder), _changed(folder))
        key = self._key(spec, "auto") + (() if kind in _SHARE else stamp)
        return _Plan(target, spec, "auto", key, ("adapter", *stamp), folder, adapter=True)

    def _key(self, spec: ModelSpec, chat_template: str) -> tuple:
        """Equal for targets that can share weights; a template file counts by what is in it."""
        if is_template_file(chat_template):
            with contextlib.suppress(OSError, UnicodeDecodeError):  # prepare_chat will say what is wrong with it
                chat_template = Path(chat_template).expanduser().read_text(encoding="utf-8")
        return (spec.id, spec.revision, spec.dtype, spec.quantization, spec.trust_remote_code, chat_template)

    def _opened(self, plan: _Plan) -> Handle | None:
        with self._books:
            if plan.handle_key not in self._handles:
                return None
            self._models.move_to_end(plan.key)
            self._handles.move_to_end(plan.handle_key)
            return self._handles[plan.handle_key][1]

    def _weights(self, plan: _Plan, progress: Report) -> Weights:
        with self._books:
            if plan.key in self._models:
                self._models.move_to_end(plan.key)
                return self._models[plan.key]
        from studio.models.chat import prepare_chat
        from studio.models.load import load_model, load_tokenizer
        from studio.models.store import fetch

        folder = fetch(plan.spec, progress=progress)
        self._make_room(sum(f.stat().st_size for f in folder.glob("*.safetensors")))
        progress(f"Loading {plan.target.name}", 0, 0)
        tokenizer = load_tokenizer(folder, trust_remote_code=plan.spec.trust_remote_code)
        model = load_model(plan.spec, device=self.device)
        prepare_chat(tokenizer, model, plan.chat_template)
        weights = Weights(plan.spec.id, model, tokenizer)
        with self._books:
            self._models[plan.key] = weights
        return weights

    def _handle(self, plan: _Plan, weights: Weights, progress: Report) -> Handle:
        from studio.models.load import load_tokenizer

        adapter, tokenizer = None, weights.tokenizer
        if plan.adapter:
            progress(f"Loading {plan.target.name}", 0, 0)
            self._make_adapter_room(plan.key, weights)
            if (plan.folder / "tokenizer_config.json").exists():  # an adapter from elsewhere may have none of its own
                tokenizer = load_tokenizer(plan.folder, trust_remote_code=plan.spec.trust_remote_code)
            try:
                adapter = weights.attach(plan.folder)
            except StudioError:
                self._forget(plan.key)  # PEFT may have changed the model half
                raise
        from studio.inference.generate import context_length, stop_ids

        return Handle(
            plan.target, weights, adapter, tokenizer, stop_ids(weights.model, tokenizer), context_length(weights.model)
        )

    def _make_room(self, coming: int) -> None:
        limit = self._max_bytes if self._max_bytes is not None else int(_MEMORY_SHARE * _device_memory(self.device))
        while True:
            with self._books:
                used = sum(weights.bytes for weights in self._models.values())
                if not self._models or (len(self._models) < self._max_models and used + coming <= limit):
                    return
                oldest = next(iter(self._models))
            self._forget(oldest)

    def _make_adapter_room(self, key: tuple, weights: Weights) -> None:
        while len(weights.adapters) >= self._max_adapters:
            with self._books:
                mine = [(k, h) for k, (owner, h) in self._handles.items() if owner == key and h.adapter]
                oldest, handle = mine[0]
                del self._handles[oldest]
            weights.detach(handle.adapter)

    def _forget(self, key: tuple) -> None:
        with self._books:
            self._models.pop(key, None)
            for handle_key in [k for k, (owner, _) in self._handles.items() if owner == key]:
                del self._handles[handle_key]
        _collect()


def _refuse_classifier(target: Target) -> None:
    """Refuse a model that puts texts into classes, since it cannot answer."""
    model = Run.open(target.run_id).recipe.model if target.kind == "run" else target.model
    if model is not None and model.task == "seq_cls":
        raise StudioError(
            f"{target.name or model.id} puts texts into classes and cannot answer a prompt.",
            "See what it says about the held-out rows: python app.py evaluate RUN, or predictions.jsonl in the run's "
            "folder.",
            field="model.task",
        )


def _changed(folder: Path) -> int:
    """When the weights in a run's model folder were written (nanoseconds): a resumed run is another model."""
    return max((f.stat().st_mtime_ns for f in folder.glob("*.safetensors")), default=0)


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
