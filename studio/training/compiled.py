"""``torch.compile`` for the layers that a model repeats, where it pays back within the run.

All decoder layers have the same code, so one of them is compiled and the others take what was made for it: regional
compilation (https://docs.pytorch.org/tutorials/recipes/regional_compilation.html). Lengths are left open, or each
batch would be compiled anew. Only training passes are compiled; validation and samples go the model's own way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from studio.recipe import Recipe

LEAST_MINUTES = {"cpu": 30, "cuda": 10}
"""Of a whole run without it: in less, what compiling takes (a minute or two, longer on few cores) is not won back."""
WORTH = 0.9  # of the time of a layer as it is
_TURNS = 5


def repeated_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The longest list of layers of one class in a model: its decoder's."""
    lists = [list(each) for each in model.modules() if isinstance(each, torch.nn.ModuleList)]
    same = [each for each in lists if each and len({type(layer) for layer in each}) == 1]
    return max(same, key=len, default=[])


class CompiledLayers:
    """The decoder's layers, as they are until :meth:`compile`.

    Args:
        model: loaded, with its adapter.
        batch: makes a training batch, ``input_ids`` (rows, length) in it.
    """

    def __init__(self, model: torch.nn.Module, batch: Callable[[], dict[str, torch.Tensor]]):
        self._model, self._batch = model, batch
        self.layers = repeated_layers(model)

    def seconds(self) -> float:
        """Of a forward and a backward pass through all layers, without what is before and after them."""
        layer = self.layers[-1]  # its input has gradients, as that of all but the first of an adapted model
        call = _Call(layer)
        with call, torch.no_grad():
            self._model(input_ids=self._batch()["input_ids"].to(self._model.device), use_cache=False)
        states, *others = call.inputs or (call.options.pop("hidden_states"),)
        hidden = states.detach().requires_grad_()

        def once() -> float:
            start = time.perf_counter()
            out = layer(hidden, *others, **call.options)
            (out[0] if isinstance(out, tuple) else out).float().sum().backward()
            if hidden.is_cuda:
                torch.cuda.synchronize()
            return time.perf_counter() - start

        kept = {parameter: parameter.grad for parameter in layer.parameters()}
        try:
            with torch.random.fork_rng():  # of dropout: the run's own numbers stay as they are
                once()  # the first one compiles, or warms up
                return len(self.layers) * min(once() for _ in range(_TURNS))
        finally:
            for parameter, grad in kept.items():
                parameter.grad = grad

    def compile(self) -> None:
        """Let all layers train by compiled code; nothing is compiled before a layer is called."""
        for layer in self.layers:
            layer.forward = _dispatch(layer)

    def undo(self) -> None:
        """Let all layers go their own way again."""
        for layer in self.layers:
            vars(layer).pop("forward", None)


class _Call:
    """What a layer is called with the next time."""

    def __init__(self, layer: torch.nn.Module):
        self._layer = layer
        self.inputs: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}

    def __enter__(self) -> _Call:
        def note(_: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
            self.inputs, self.options = inputs, options

        self._hook = self._layer.register_forward_pre_hook(note, with_kwargs=True)
        return self

    def __exit__(self, *_: Any) -> None:
        self._hook.remove()


def _dispatch(layer: torch.nn.Module) -> Callable[..., Any]:
    usual = layer.forward
    fast = torch.compile(usual, dynamic=True)

    def forward(*arguments: Any, **options: Any) -> Any:
        return (fast if layer.training and torch.is_grad_enabled() else usual)(*arguments, **options)

    return forward


def why_not(recipe: Recipe, layers: CompiledLayers, processes: int) -> str:
    """Why a model is not compiled by itself, or nothing."""
    if recipe.model.quantization != "none":
        return "Quantised layers are not compiled."
    if processes > 1:
        return "Several processes would each compile."
    if recipe.model.task != "causal_lm":
        return "It was not tried with classifiers."
    if recipe.train.packing:
        return "The mask of packed rows changes with each batch."
    if recipe.method.kind not in ("lora", "full", "freeze"):
        return "It was not tried with this method."
    return "" if len(layers.layers) > 1 else "The model does not repeat one layer."
