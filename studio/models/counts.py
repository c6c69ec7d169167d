"""What a method trains of a model, counted from the shapes alone: every tensor as PEFT makes it.

The formulas follow PEFT 0.21's layers; ``tests/models/test_counts.py`` holds them against PEFT's own count. Nothing
heavy is imported.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from studio.models.patterns import Patterns
from studio.models.shapes import Linear, Module, Norm, Shapes
from studio.recipe.methods import PROMPTED, Method

Shape = tuple[int, ...]
_KEYS_AND_VALUES = re.compile(r"(k|v)_proj|key|value|c_attn|query_key_value|qkv_proj|(k|v)_lin")
_FEED_FORWARD = ("down_proj", "fc2", "mlp.c_proj")  # what IA3 scales the inputs of if nothing is said


class Tensor(NamedTuple):
    """A trained tensor: its shape, and whether it is part of an adapter, the length of DoRA's columns, a copy of a
    layer of the model (a norm, ``modules_to_save``), or one of the model's own, and where it stands."""

    shape: Shape
    kind: Literal["adapter", "magnitude", "copy", "base"]
    where: Literal["block", "embedding", "behind"] = "block"

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)


class Adapted(NamedTuple):
    """A matrix with an adapter, and the rank there (0 where the method has none)."""

    linear: Linear
    rank: int


class Block(NamedTuple):
    """What is trained in a block: matrices with an adapter, and layers that are trained as they are."""

    adapted: tuple[Adapted, ...] = ()
    whole: tuple[Linear | Norm, ...] = ()


@dataclass(frozen=True)
class Trained:
    """What a method trains, and what it adds to the model."""

    tensors: Counter[Tensor]
    base: int  # numbers of the model itself
    blocks: Counter[Block]  # those that gradients go through: from the first trained one on
    head: bool  # the output head, or the embedding that it is tied to, is trained
    embedding: bool  # the embedding is trained
    last_norm: bool  # the norm before the head is trained
    frozen: int = 0  # numbers that the adapter adds and does not train, as PEFT counts them
    constants: int = 0  # float32 numbers that the adapter keeps beside its parameters

    @cached_property
    def trainable(self) -> int:
        return self.numbers("adapter", "magnitude", "copy", "base")

    @property
    def total(self) -> int:
        return self.base + self.numbers("adapter", "magnitude", "copy") + self.frozen

    def numbers(self, *kinds: str) -> int:
        return sum(t.numbers * count for t, count in self.tensors.items() if t.kind in kinds)

    @property
    def largest(self) -> int:
        """Numbers in the largest trained tensor."""
        return max((t.numbers for t in self.tensors), default=0)


def count(
    method: Method, shapes: Shapes, *, new_tokens: int = 0, butterflies: bool = False, half: bool = False
) -> Trained:
    """What ``method`` trains of a model of these shapes.

    Args:
        shapes: with the rows of new tokens (``Shapes.with_tokens``) and the classes that it sorts into already in it.
        new_tokens: rows of the embeddings that have to be trained.
        butterflies: whether PEFT can build its CUDA kernel for BOFT; without it, it makes one rotation of any number.
        half: whether the numbers of the base have 2 bytes.

    Raises:
        StudioError: a pattern in the method is not a regular expression.
    """
    modules, patterns = list(shapes.modules()), Patterns()
    if method.kind in ("full", "freeze"):
        return _own(method, shapes, modules, new_tokens)
    saved = _saved_names(method, shapes, new_tokens)
    copied = [m for m in modules if _under(m.name, lambda name: any(name.endswith(s) for s in saved))]
    tensors = _tensors(shapes, copied, "copy")
    if new_tokens and method.kind in ("lora", "adalora"):
        tensors[Tensor((new_tokens, shapes.hidden), "adapter")] += 1 if shapes.tied else 2
    frozen = constants = 0
    adapted: list[tuple[Module, int]] = []
    if method.kind in PROMPTED:
        tensors += Counter(Tensor(shape, "adapter") for shape in _PROMPTS[method.kind](method, shapes))
    elif method.kind == "ln_tuning":
        norms = [m for m in modules if isinstance(m.layer, Norm) and not _kept_out(m.name, saved, patterns)]
        tensors += _tensors(shapes, norms, "copy")
        copied += norms
    else:
        targets = [m for m in _targets(method, shapes, modules, patterns) if not _kept_out(m.name, saved, patterns)]
        adapted = [(m, _rank(method, m.name, patterns)) for m in targets]
        for module, rank in adapted:
            tensors.update(_of_adapter(method, shapes, module, rank, butterflies))
        if method.kind == "adalora" and half:  # PEFT 0.21 casts it to float32, and then trains it
            tensors[Tensor((1,), "adapter")] += len(adapted)
        elif method.kind == "adalora":
            frozen = len(adapted)  # the rank that each layer begins with
        constants = _constants(method, targets, butterflies)
    names = {m.name for m in copied}
    everywhere = method.kind in PROMPTED or (new_tokens and method.kind in ("lora", "adalora"))
    return Trained(
        tensors,
        shapes.total,
        _blocks(shapes, adapted, copied, 0 if everywhere else None),
        head=shapes.head in names or any(m.name == shapes.head for m, _ in adapted),
        embedding=shapes.embedding in names,
        last_norm=shapes.last_norm.name in names,
        frozen=frozen,
        constants=constants,
    )


def _own(method: Any, shapes: Shapes, modules: list[Module], new_tokens: int) -> Trained:
    """Weights of the model itself: all, or the last blocks and the named modules."""
    if method.kind == "full":
        chosen = modules
    else:
        first = shapes.layers - method.num_trainable_layers
        names = [*method.trainable_modules]
        if new_tokens:
            names += [shapes.embedding, shapes.head]

        def named(name: str) -> bool:
            return any(name == n or name.endswith(f".{n}") for n in names)

        chosen = [m for m in modules if first <= m.block < shapes.layers or _under(m.name, named)]
    tables = {m.name for m in chosen} & {shapes.embedding, shapes.head}
    if shapes.tied and tables:  # one table under two names
        tables = {shapes.embedding, shapes.head}
        chosen = [m for m in chosen if m.name not in tables] + [m for m in modules if m.name == shapes.embedding]
    return Trained(
        _tensors(shapes, chosen, "base"),
        shapes.total,
        _blocks(shapes, [], chosen),
        head=shapes.head in tables,
        embedding=shapes.embedding in tables,
        last_norm=any(m.name == shapes.last_norm.name for m in chosen),
    )


def _tensors(shapes: Shapes, modules: Iterable[Module], kind: Literal["copy", "base"]) -> Counter[Tensor]:
    """The parameters of whole layers; weights and biases of a norm are counted as one."""
    found: Counter[Tensor] = Counter()
    for m in modules:
        where = "embedding" if m.layer is None else "block" if m.block < shapes.layers else "behind"
        found[Tensor(m.shape, kind, where)] += 1
        if rest := m.numbers - math.prod(m.shape):
            found[Tensor((rest,), kind, where)] += 1
    return found


def _under(name: str, fits: Callable[[str], bool]) -> bool:
    """Whether a module or one that it stands in fits."""
    parts = name.split(".")
    return any(fits(".".join(parts[: end + 1])) for end in range(len(parts)))


def _saved_names(method: Any, shapes: Shapes, new_tokens: int) -> list[str]:
    saved = [*getattr(method, "modules_to_save", [])]
    if new_tokens and method.kind not in ("lora", "adalora", *PROMPTED):
        saved += [shapes.embedding] if shapes.tied else [shapes.embedding, shapes.head]
    return [*saved, "classifier", "score"] if shapes.classes else saved  # PEFT trains a new head with every method


def _kept_out(name: str, saved: list[str], patterns: Patterns) -> bool:
    """PEFT puts no adapter into a layer that is trained whole."""
    return any(patterns.fits(rf"(.*\.)?{s}(\..*)?", name, "modules_to_save") for s in saved)


def _targets(method: Any, shapes: Shapes, modules: list[Module], patterns: Patterns) -> Iterator[Module]:
    """The layers that get an adapter, chosen as PEFT does it."""
    wanted = getattr(method, "target_modules", "auto")
    if method.kind == "bottleneck":
        wanted = list(shapes.sublayers if method.placement == "houlsby" else shapes.sublayers[1:])
    elif wanted == "auto":
        named = {name for m in modules if _KEYS_AND_VALUES.fullmatch(name := m.name.rsplit(".", 1)[-1])}
        wanted = [*named, shapes.sublayers[1]]
    layers = getattr(method, "layers_to_transform", [])
    for m in modules:
        inside = 0 <= m.block < shapes.layers
        if isinstance(m.layer, Norm) or (layers and m.block not in layers):
            continue
        if wanted == "all-linear":
            chosen = inside
        elif isinstance(wanted, str):
            chosen = patterns.fits(wanted, m.name, "target_modules")
        else:
            chosen = any(m.name == t or m.name.endswith(f".{t}") for t in wanted)
        if chosen:
            yield m


def _rank(method: Any, name: str, patterns: Patterns) -> int:
    for pattern, rank in getattr(method, "rank_pattern", {}).items():
        if patterns.fits(rf"(.*\.)?({pattern})", name, "rank_pattern"):
            return rank
    return getattr(method, "init_r", None) or getattr(method, "r", 0)


def _of_adapter(method: Any, shapes: Shapes, module: Module, rank: int, butterflies: bool) -> list[Tensor]:
    """The tensors of one layer's adapter."""
    outputs, inputs = module.shape
    if module.layer is None:  # LoRA of an embedding: tokens are its inputs
        outputs, inputs = inputs, outputs
    kind, r = method.kind, rank
    sizes: list[Shape]
    if kind == "lora":
        lengths = [Tensor((outputs,), "magnitude")] if method.use_dora else []
        return [Tensor((r, inputs), "adapter"), Tensor((outputs, r), "adapter"), *lengths]
    if kind == "adalora":
        sizes = [(r, inputs), (outputs, r), (r, 1)]
    elif kind == "ia3":
        sizes = [(1, inputs) if scales_inputs(method, shapes, module.name) else (outputs, 1)]
    elif kind == "loha":
        sizes = [(outputs, r), (r, inputs)] * 2
    elif kind == "lokr":
        sizes = _kronecker(method, inputs, outputs)
    elif kind == "oft":
        block = oft_block(inputs, method.oft_block_size)
        sizes = [(inputs // block, block * (block - 1) // 2)]
    elif kind == "boft":
        block = method.boft_block_size
        sizes = [(rotations(method, butterflies), inputs // block, block, block), (outputs, 1)]
    elif kind == "vera":
        sizes = [(outputs,), (r,)]
    elif kind == "hra":
        sizes = [(inputs, r)]
    else:
        size = bottleneck_size(outputs, method.reduction_factor)
        sizes = [(size, outputs), (size,), (outputs, size), (outputs,)]
    return [Tensor(size, "adapter") for size in sizes]


def scales_inputs(method: Any, shapes: Shapes, name: str) -> bool:
    """Whether IA3's factors are on the inputs of this layer, as for the last of a feed-forward part."""
    wanted, ends = method.target_modules, list(method.feedforward_modules)
    if wanted == "auto":
        ends = ends or [shapes.sublayers[1]]
    elif isinstance(wanted, list):
        ends = ends or [t for t in wanted if t in _FEED_FORWARD]
    return any(name.endswith(end) for end in ends)


def _kronecker(method: Any, inputs: int, outputs: int) -> list[Shape]:
    """LoKr's two factors, each whole or as a product of two (of rank r) where that is smaller."""
    r, wanted = method.r, method.decompose_factor
    (rows, row), (columns, column) = factors(outputs, wanted), factors(inputs, wanted)
    split = method.decompose_both and r < max(rows, columns) / 2
    first = [(rows, r), (r, columns)] if split else [(rows, columns)]
    second = [(row, r), (r, column)] if r < max(row, column) / 2 else [(row, column)]
    return first + second


def factors(size: int, wanted: int = -1) -> tuple[int, int]:
    """``size`` as a product of two: ``wanted`` times the rest, or else the two factors with the least sum whose first
    is at most ``wanted`` (-1: without that bound)."""
    if wanted > 0 and size % wanted == 0:
        return wanted, size // wanted
    most = size if wanted == -1 else wanted
    small, large = 1, size
    for low in range(2, math.isqrt(size) + 1):
        if size % low == 0:
            if low > most or low + size // low > small + large:
                break
            small, large = low, size // low
    return small, large


def oft_block(inputs: int, wanted: int) -> int:
    """The block size that OFT takes: the divisor of ``inputs`` that is nearest to the wanted size, rather the lower."""
    if wanted >= inputs:
        return inputs
    small = [size for size in range(1, math.isqrt(inputs) + 1) if inputs % size == 0]
    divisors = [*small, *(inputs // size for size in small)]
    higher = min(size for size in divisors if size >= wanted)
    lower = max(size for size in divisors if size <= wanted)
    return lower if wanted - lower <= higher - wanted else higher


def bottleneck_size(hidden: int, reduction_factor: float) -> int:
    """Width of a bottleneck adapter, as ``studio.models.bottleneck`` makes it."""
    return max(1, int(hidden / reduction_factor))


def rotations(method: Any, butterflies: bool) -> int:
    """How many rotations BOFT makes of a layer's inputs."""
    return method.boft_n_butterfly_factor if butterflies else 1


def _constants(method: Any, adapted: list[Module], butterflies: bool) -> int:
    """VeRA's two shared matrices; BOFT's permutation of the inputs, written out as a matrix for every layer."""
    if method.kind == "vera" and adapted:
        return method.r * (max(m.shape[0] for m in adapted) + max(m.shape[1] for m in adapted))
    if method.kind == "boft":
        return rotations(method, butterflies) * sum(m.shape[1] ** 2 for m in adapted)
    return 0


def _prompt(method: Any, shapes: Shapes) -> list[Shape]:
    return [(method.num_virtual_tokens, shapes.hidden)]


def _encoded_prompt(method: Any, shapes: Shapes) -> list[Shape]:
    h, e = shapes.hidden, method.encoder_hidden_size
    if method.encoder_reparameterization_type == "MLP":
        return [*_prompt(method, shapes), (e, h), (e,), (e, e), (e,), (h, e), (h,)]
    lstm = []
    for layer in range(method.encoder_num_layers):  # four gates and both directions; further layers read both
        lstm += [(4 * e, 2 * e if layer else h), (4 * e, e), (4 * e,), (4 * e,)] * 2
    return [*_prompt(method, shapes), *lstm, (2 * e, 2 * e), (2 * e,), (h, 2 * e), (h,)]


def _prefix(method: Any, shapes: Shapes) -> list[Shape]:
    """Keys and values of all layers; with a projection, the small network that makes them."""
    wide, e = 2 * shapes.layers * shapes.keys, method.encoder_hidden_size
    if not method.prefix_projection:
        return [(method.num_virtual_tokens, wide)]
    return [(method.num_virtual_tokens, shapes.keys), (e, shapes.keys), (e,), (wide, e), (wide,)]


_PROMPTS = {"prompt_tuning": _prompt, "p_tuning": _encoded_prompt, "prefix_tuning": _prefix}


def _blocks(
    shapes: Shapes, adapted: list[tuple[Module, int]], whole: list[Module], first: int | None = None
) -> Counter[Block]:
    """The blocks that gradients go through, equal ones together."""
    trained = [*(m for m, _ in adapted), *whole]
    if first is None:
        first = max(0, min((m.block for m in trained), default=shapes.layers))
    inside: dict[int, tuple[list[Adapted], list[Linear | Norm]]] = {i: ([], []) for i in range(first, shapes.layers)}
    for m, rank in adapted:
        if m.block in inside:
            inside[m.block][0].append(Adapted(m.layer, rank))
    for m in whole:
        if m.block in inside:
            inside[m.block][1].append(m.layer)
    return Counter(Block(tuple(a), tuple(w)) for a, w in inside.values())
