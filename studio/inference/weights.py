"""One loaded model, shared by everyone who speaks with it or with an adapter on it."""

from __future__ import annotations

import copy
import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from studio.errors import StudioError
from studio.thread_waiting import LoadWatch

T = TypeVar("T")


class Weights:
    """A transformers model whose forward passes all happen on one thread, one at a time.

    Which adapter is active is state of the model, so two panes cannot simply call it at once. Here every forward pass
    is a job on the thread of these weights: it first sets the adapter of the pane that asked (:meth:`use_adapter`) and
    then computes. Panes call transformers' ``generate``, each in a thread and with a KV cache of its own, and their
    tokens take turns. One thread rather than a lock, because the queue is fair, and because each thread that computes
    has its own team of OpenMP workers, which would spin against each other.

    An adapter that is not switched in this model gets a :meth:`share_tensors`: modules of its own around the same
    tensors, on the same thread. So whatever the adapter does to its modules, this model has the numbers that it had.

    Args:
        name: for people.
        model: in evaluation mode; its ``forward`` is replaced.
        tokenizer: as ``prepare_chat`` left it.
        clock: seconds of a clock that never goes back.
        first: the weights that these are a twin of.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        clock: Callable[[], float] = time.monotonic,
        first: Weights | None = None,
    ):
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        # fast tokenizers may not be changed and used at the same time
        self.tokenizer_lock = first.tokenizer_lock if first else threading.Lock()
        self.adapters: list[str] = []
        self._peft: Any = None
        self._attached = 0
        self._switches: dict[str | None, list[tuple[Any, bool, list[str]]]] = {None: []}
        self._active: str | None = None
        self._plain: Any = None  # the modules as they were before the first adapter came
        self._use = first._use if first else _Use(clock, on_cpu=model.device.type == "cpu")
        self._shared = {id(p) for p in first.model.parameters()} if first else set()
        self._caller = first._caller if first else threading.local()
        # ends when these weights and their twins are collected
        self._thread = first._thread if first else ThreadPoolExecutor(1, thread_name_prefix="forward")
        self._route_forward()
        if not first:
            from studio.models.head import contiguous_head_input

            contiguous_head_input(model)

    @property
    def device(self) -> Any:
        return self.model.device

    @property
    def bytes(self) -> int:
        """Memory of the weights and adapters; for a twin, of what it does not share."""
        own = (p for p in self.model.parameters() if id(p) not in self._shared)
        return sum(p.numel() * p.element_size() for p in own)

    @property
    def busy(self) -> bool:
        """Whether somebody speaks with these weights or a twin just now."""
        return self._use.speakers > 0

    def idle(self) -> float:
        """For how many seconds nobody has spoken with these weights or a twin."""
        return 0.0 if self.busy else self._use.clock() - self._use.last

    def share_tensors(self) -> Weights:
        """The base alone once more: modules of its own, the same tensors, the same thread.

        For models that are not quantised.
        """
        with self.use_adapter(None):
            model = self.compute(lambda: _modules_around_same_tensors(self._plain or self.model))
        return Weights(self.name, model, self.tokenizer, first=self)

    @contextmanager
    def use_adapter(self, adapter: str | None) -> Iterator[None]:
        """Forward passes that the calling thread asks for in here use this adapter; None is the base alone."""
        before = getattr(self._caller, "adapter", None)
        self._caller.adapter = adapter
        self._use.begin()
        try:
            yield
        finally:
            self._caller.adapter = before
            self._use.end()

    def compute(self, job: Callable[[], T]) -> T:
        """Run ``job`` on the thread of these weights, with the caller's adapter and without gradients."""
        if getattr(self._caller, "computing", False):
            return job()
        return self._thread.submit(self._compute, job, getattr(self._caller, "adapter", None)).result()

    def attach(self, folder: Path) -> str:
        """Load the adapter in ``folder`` beside those there are, and return the name it has here.

        Raises:
            StudioError: it cannot be read or does not fit this model; these weights must not be used any more.
        """
        self._attached += 1
        name = f"run{self._attached:04d}"
        with self.use_adapter(None):
            self.compute(lambda: self._attach(folder, name))
        self.adapters.append(name)
        return name

    def detach(self, name: str) -> None:
        """Unload an adapter."""
        self.adapters.remove(name)
        with self.use_adapter(None):
            self.compute(lambda: self._detach(name))

    def _compute(self, job: Callable[[], T], adapter: str | None) -> T:
        import torch

        self._caller.computing = True
        try:
            self._switch(adapter)
            with torch.no_grad():
                return job()
        finally:
            self._caller.computing = False

    def _route_forward(self) -> None:
        inner = self.model.forward

        @functools.wraps(inner)  # generate() looks at the signature
        def forward(*arguments: Any, **options: Any) -> Any:
            return self.compute(lambda: inner(*arguments, **options))

        self.model.forward = forward

    def _attach(self, folder: Path, name: str) -> None:
        from peft import PeftModel

        from studio.models.efficient_hra_boft import turn_inputs
        from studio.models.initial_adapter import reading
        from studio.models.weight_check import check_adapter

        options = {"adapter_name": name, "is_trainable": False, "torch_device": str(self.device)}
        with reading(folder):
            if self._peft is None:
                if not self._shared and not getattr(self.model, "is_quantized", False):
                    self._plain = _modules_around_same_tensors(self.model)
                self._peft = PeftModel.from_pretrained(self.model, str(folder), **options)
            else:
                self._peft.load_adapter(str(folder), **options)
            check_adapter(self._peft, folder, name)
        turn_inputs(self._peft)
        self._peft.eval().requires_grad_(False)
        if self._peft.peft_config[name].is_prompt_learning:
            self.model = self._peft  # it puts the vectors before the text; no other run shares these weights
        self._find_switches()

    def _detach(self, name: str) -> None:
        self._peft.delete_adapter(name)
        self._find_switches()

    def _find_switches(self) -> None:
        """For every adapter, and for none, what each adapter layer must be set to."""
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        layers = [m for m in self.model.modules() if isinstance(m, (BaseTunerLayer, AuxiliaryTrainingWrapper))]
        names = list(self._peft.peft_config)
        has = [(layer, layer._get_available_adapters()) for layer in layers]
        self._switches = {None: [(layer, True, layer.active_adapters) for layer in layers]}
        for name in names:
            self._switches[name] = [(layer, name not in found, [name] if name in found else []) for layer, found in has]
        self._set(None)

    def _switch(self, adapter: str | None) -> None:
        if adapter == self._active:
            return
        if adapter not in self._switches:
            raise StudioError("This tuned model has been unloaded to make room.", "Choose it again.")
        self._set(adapter)

    def _set(self, adapter: str | None) -> None:
        """Set the two flags that every PEFT layer reads in its forward pass.

        PEFT's own ``set_adapter`` and ``disable_adapter_layers`` write the same two flags, but also walk over all
        parameters to set ``requires_grad``, and through ``nn.Module.__setattr__``: 8 to 15 ms for 210 layers, at each
        token, against 0.05 ms.
        """
        self._active = "switching"  # an exception on the way must not leave a wrong belief
        for layer, disabled, active in self._switches[adapter]:
            object.__setattr__(layer, "_disable_adapters", disabled)
            object.__setattr__(layer, "_active_adapter", active)
        self._active = adapter


class _Use:
    """Who speaks with some weights, and when somebody last did. Meanwhile the load of the machine is watched."""

    def __init__(self, clock: Callable[[], float], on_cpu: bool):
        self.clock, self.last, self.speakers = clock, clock(), 0
        self._lock = threading.Lock()
        self._load = LoadWatch() if on_cpu else None

    def begin(self) -> None:
        with self._lock:
            self.speakers += 1
            if self._load and self.speakers == 1:
                self._load.start()

    def end(self) -> None:
        with self._lock:
            self.speakers -= 1
            self.last = self.clock()
            if self._load and not self.speakers:
                self._load.stop()


def _modules_around_same_tensors(model: Any) -> Any:
    """A copy of a model whose parameters and buffers are the very ones of the original."""
    same = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, same)
    vars(twin).pop("forward", None)  # the route of the original
    return twin
