"""One loaded model, shared by everyone who speaks with it or with an adapter on it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from studio.errors import StudioError

T = TypeVar("T")


class Weights:
    """A transformers model whose forward passes all happen on one thread, one at a time.

    Which adapter is active is state of the model, so two panes cannot simply call it at once. Here every forward pass
    is a job on the thread of these weights: it first sets the adapter of the pane that asked (:meth:`speaking_as`) and
    then computes. Panes call transformers' ``generate``, each in a thread and with a KV cache of its own, and their
    tokens take turns. One thread rather than a lock, because the queue is fair, and because each thread that computes
    has its own team of OpenMP workers, which would spin against each other.

    Args:
        name: for people.
        model: in evaluation mode; its ``forward`` is replaced.
        tokenizer: as ``prepare_chat`` left it.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any):
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.tokenizer_lock = threading.Lock()  # fast tokenizers may not be changed and used at the same time
        self.adapters: list[str] = []
        self._peft: Any = None
        self._attached = 0
        self._switches: dict[str | None, list[tuple[Any, bool, list[str]]]] = {None: []}
        self._active: str | None = None
        self._caller = threading.local()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forward")  # ends when these weights are collected
        self._route_forward()

    @property
    def device(self) -> Any:
        return self.model.device

    @property
    def bytes(self) -> int:
        """Memory of the weights and adapters."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    @contextmanager
    def speaking_as(self, adapter: str | None) -> Iterator[None]:
        """Forward passes that the calling thread asks for in here use this adapter; None is the base alone."""
        before = getattr(self._caller, "adapter", None)
        self._caller.adapter = adapter
        try:
            yield
        finally:
            self._caller.adapter = before

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
        with self.speaking_as(None):
            self.compute(lambda: self._attach(folder, name))
        self.adapters.append(name)
        return name

    def detach(self, name: str) -> None:
        """Unload an adapter."""
        self.adapters.remove(name)
        with self.speaking_as(None):
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

        from studio.models.continued import reading

        options = {"adapter_name": name, "is_trainable": False, "torch_device": str(self.device)}
        with reading(folder):
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(self.model, str(folder), **options)
            else:
                self._peft.load_adapter(str(folder), **options)
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
