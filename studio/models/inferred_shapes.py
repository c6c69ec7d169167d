"""Shapes of a model whose architecture is not known here, guessed from the tensors' names and sizes on the disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from studio.errors import StudioError
from studio.models.headers import BYTES, read_headers
from studio.models.shapes import Linear, Module, Norm, Shapes, text_config


def guessed_shapes(config: dict, folder: Path | None) -> Shapes:
    """What the headers of the files in ``folder`` tell, with a note that it is rough.

    Raises:
        StudioError: there is no folder, or no weights are in it.
    """
    config = text_config(config)
    tensors = read_headers(folder) if folder else {}
    if not tensors:
        raise StudioError(
            f"The memory for the architecture {config.get('model_type') or 'of this model'} cannot be estimated.",
            "Fetch the model first; its files tell its size.",
            field="model.id",
        )
    outside = ("embed", "wte", "wpe", "lm_head", "shared", "norm", "router")
    matrices = {
        n: t
        for n, t in tensors.items()
        if len(t.shape) == 2 and n.endswith(".weight") and not any(o in n.lower() for o in outside)
    }
    tables = {n: t for n, t in tensors.items() if len(t.shape) == 2 and n not in matrices and t.dtype in BYTES}
    name, table = max(tables.items(), key=lambda item: item[1].count, default=("embed_tokens.weight", None))
    vocabulary, hidden = table.shape if table else (config.get("vocab_size", 0), config.get("hidden_size", 0))
    layers = int(config.get("num_hidden_layers") or config.get("n_layer") or 1)
    modules = [_module(n, tensors, layers) for n in matrices]
    norms = {n for n, t in tensors.items() if len(t.shape) == 1 and n.endswith(".weight") and "norm" in n.lower()}
    modules += [_module(n, tensors, layers) for n in sorted(norms)]
    everything = sum(t.count for t in tensors.values())
    linears = tuple(m.layer for m in modules if isinstance(m.layer, Linear))
    inner = int(config.get("intermediate_size") or max((m.outputs for m in linears), default=4 * hidden))
    return _Guessed(
        block="",
        layers=layers,
        hidden=hidden,
        intermediate=inner,
        queries=hidden,
        keys=hidden,
        heads=int(config.get("num_attention_heads") or 1),
        vocabulary=vocabulary,
        tied=True,
        linears=linears,
        norms=(Norm("first", 0, hidden), Norm("second", 0, hidden)),
        last_norm=Norm("", 0, hidden),
        sublayers=("o_proj", "down_proj"),
        embedding=name.removesuffix(".weight"),
        every=tuple(modules),
        rest=max(0, everything - sum(m.numbers for m in modules) - vocabulary * hidden),
        notes=(f"{config.get('model_type', 'This architecture')} is not known here; the estimate is rough.",),
    )


def _module(name: str, tensors: dict, layers: int) -> Module:
    """A matrix or a norm of the files, with its bias."""
    short, shape = name.removesuffix(".weight"), tensors[name].shape
    bias = tensors.get(f"{short}.bias")
    numbers = tensors[name].count + (bias.count if bias else 0)
    place = re.search(r"\.(\d+)\.", name)
    block = min(int(place[1]), layers - 1) if place else layers
    layer = Linear(short, shape[1], shape[0], bias is not None) if len(shape) == 2 else Norm(short, numbers, shape[0])
    return Module(short, numbers, shape, block, layer)


@dataclass(frozen=True)
class _Guessed(Shapes):
    """Shapes whose ``linears`` name the matrices of all blocks at once."""

    every: tuple[Module, ...] = ()
    rest: int = 0  # numbers that are in no layer that is known

    @property
    def total(self) -> int:
        return sum(m.numbers for m in self.every) + self.rest + self.outer

    @property
    def matrices(self) -> int:
        return sum(m.inputs * m.outputs for m in self.linears)

    def of_block(self) -> tuple[Linear, ...]:
        return tuple(m.layer for m in self.every if m.block == 0 and isinstance(m.layer, Linear))

    def inside(self) -> Iterator[Module]:
        yield from self.every
