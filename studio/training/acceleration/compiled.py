"""``torch.compile`` for the layers that a model repeats, where the recipe asks for it.

All decoder layers have the same code, so one of them is compiled and the others take what was made for it: regional
compilation (https://docs.pytorch.org/tutorials/recipes/regional_compilation.html). Lengths are left open, or each
batch would be compiled anew. Only training passes are compiled; validation and samples go the model's own way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def repeated_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The longest list of layers of one class in a model: its decoder's."""
    lists = [list(each) for each in model.modules() if isinstance(each, torch.nn.ModuleList)]
    same = [each for each in lists if each and len({type(layer) for layer in each}) == 1]
    return max(same, key=len, default=[])


class CompiledLayers:
    """The decoder's layers, as they are until :meth:`compile`.

    Args:
        model: loaded, with its adapter.
    """

    def __init__(self, model: torch.nn.Module):
        self.layers = repeated_layers(model)

    def compile(self) -> None:
        """Let all layers train by compiled code; nothing is compiled before a layer is called."""
        for layer in self.layers:
            layer.forward = _dispatch(layer)


def _dispatch(layer: torch.nn.Module) -> Callable[..., Any]:
    usual = layer.forward
    fast = torch.compile(usual, dynamic=True)

    def forward(*arguments: Any, **options: Any) -> Any:
        return (fast if layer.training and torch.is_grad_enabled() else usual)(*arguments, **options)

    return forward
