"""How much memory a training run takes, from the recipe and config.json alone, in milliseconds and without weights.

``docs/memory.md`` derives the formulas and holds them against measurements (``benchmarks/memory_estimate.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from studio.models.activations import Activations
from studio.models.counts import count
from studio.models.inferred_shapes import guessed_shapes
from studio.models.persistent_memory import PersistentMemory
from studio.models.shapes import shapes_of, text_config
from studio.recipe import Recipe
from studio.recipe.methods import WHOLE

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
CUDA_CONTEXT = 500_000_000
"""Bytes that a process with PyTorch takes of a GPU before the first tensor: 426 MiB with PyTorch 2.10 on CUDA 13.0
(https://github.com/unslothai/unsloth-zoo/pull/1053), and cuBLAS's work space."""
HEAP = 0.6
"""Of gradients and activations, what glibc's heap holds in holes beside them: measured on a CPU, docs/memory.md."""
HALF_KERNELS = 150_000_000
"""Bytes of the kernels that oneDNN keeps for half precision on a CPU, one for each width of a batch, where batches have
the widths of their rows (a classifier's): measured, docs/memory.md."""
RECIPE_BATCH, RECIPE_LENGTH, LEAST_LENGTH = 4096, 1_048_576, 8  # the recipe's own bounds


@dataclass(frozen=True)
class Estimate:
    """Parameters counted exactly, memory to about a fifth. ``memory_bytes`` has the keys ``weights``, ``adapters``,
    ``gradients``, ``optimizer``, ``activations``, ``context`` and ``total``, their sum.

    ``activations`` is what a step needs on top of the others at its worst moment: what the forward pass keeps and the
    backward pass and the optimizer work with (or the validation between two steps), less the room that gradients fill
    only later. ``context`` is what is held without being used: the GPU's context; or on a CPU holes of the heap, a
    classifier's kernels for half precision, and where reading the weights is the largest moment, what that takes more.
    ``disk_bytes`` is what the run folder holds at most: ``checkpoint``, one of them; ``checkpoints``, those that are
    kept and the one being written; ``model``, what is saved at the end; ``total``, the last two.
    """

    trainable_parameters: int
    total_parameters: int
    memory_bytes: dict[str, int]
    notes: list[str] = field(default_factory=list)
    disk_bytes: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict:
        return asdict(self)


def estimate(
    recipe: Recipe,
    config: dict,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    length: int | None = None,
    new_tokens: int = 0,
    folder: Path | None = None,
    labels: int | None = None,
) -> Estimate:
    """What training by this recipe needs.

    Args:
        config: the model's config.json.
        device: ``cpu`` or ``cuda``; ``auto`` takes float32 on a CPU here, the larger of what it may choose.
        dtype: the resolved number format, where the caller knows it.
        length: tokens of the longest row; None takes ``data.max_length`` (or the model's context, if shorter).
        new_tokens: tokens that ``prepare_chat`` adds.
        folder: the model's folder; needed for architectures whose shapes are not known here.
        labels: classes of the task ``seq_cls``; None takes what the model's config says, or 2.

    Raises:
        StudioError: an unknown architecture and no folder to read its weights' headers from, or a pattern in the
            method that is none.
    """
    plan = _plan(recipe, config, device, dtype, new_tokens, folder, labels)
    batch, length = recipe.train.per_device_train_batch_size, plan.of_rows(length)
    memory, notes = plan.memory(batch, length), plan.notes
    if plan.activations.validation(length) > plan.activations.training(batch, length):
        notes = [*notes, "Validation takes more memory than training; a smaller per_device_eval_batch_size helps."]
    trained = plan.held.trained
    return Estimate(trained.trainable, trained.total, memory, notes, plan.held.disk())


def largest(
    recipe: Recipe, config: dict, available_bytes: int, *, length: int | None = None, **options: Any
) -> dict[str, int | None]:
    """What fits into ``available_bytes``: ``batch``, the largest batch of one device at the recipe's length, and
    ``length``, the longest rows at the recipe's batch, up to the recipe's own bounds and the model's context; None if
    not even one row, or 8 tokens, fit. The options are those of :func:`estimate`.

    Raises:
        StudioError: as :func:`estimate`.
    """
    plan = _plan(recipe, config, **options)
    batch, tokens = recipe.train.per_device_train_batch_size, plan.of_rows(length)

    def fits(rows: int, long: int) -> bool:
        return plan.memory(rows, long)["total"] <= available_bytes

    most = max(LEAST_LENGTH, plan.context or RECIPE_LENGTH)
    return {
        "batch": _last(1, RECIPE_BATCH, lambda rows: fits(rows, tokens)),
        "length": _last(LEAST_LENGTH, most, lambda long: fits(batch, long)),
    }


def _last(low: int, high: int, fits: Callable[[int], bool]) -> int | None:
    """The largest number from ``low`` to ``high`` that fits, if all below it fit too; None if none does."""
    if not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _plan(
    recipe: Recipe,
    config: dict,
    device: str = "cpu",
    dtype: str | None = None,
    new_tokens: int = 0,
    folder: Path | None = None,
    labels: int | None = None,
) -> _Plan:
    notes: list[str] = []
    shapes = (shapes_of(config) or guessed_shapes(config, folder)).with_tokens(new_tokens)
    text = text_config(config)
    if recipe.model.task == "seq_cls":
        shapes = shapes.with_classes(labels or text.get("num_labels") or len(text.get("id2label") or ()) or 2)
    cuda = device.startswith("cuda")
    size = ELEMENT_BYTES[dtype or _dtype(recipe, device)]
    half = size == 2 and recipe.model.quantization == "none"
    trained = count(recipe.method, shapes, new_tokens=new_tokens, butterflies=cuda, half=half)
    if cuda and recipe.method.kind == "boft" and recipe.method.boft_n_butterfly_factor > 1:
        notes.append("BOFT is counted with PEFT's CUDA kernel; where it cannot be built, there is one rotation.")
    if recipe.train.optim.startswith("paged") and cuda:
        notes.append("A paged optimizer moves its state out of a full GPU; it is counted as on the GPU.")
    context = text.get("max_position_embeddings") or text.get("n_positions")
    held = PersistentMemory(recipe=recipe, shapes=shapes, trained=trained, cuda=cuda, size=size, new_tokens=new_tokens)
    stored = str(text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype"))
    file_bytes = trained.base * ELEMENT_BYTES.get(stored.removeprefix("torch."), 4)
    return _Plan(held, Activations(held), context, file_bytes, [*notes, *shapes.notes])


def _dtype(recipe: Recipe, device: str) -> str:
    if recipe.model.dtype != "auto":
        return recipe.model.dtype
    return "float32" if recipe.method.kind in WHOLE or not device.startswith("cuda") else "bfloat16"


@dataclass(frozen=True)
class _Plan:
    """A recipe and a model, ready to be computed for any batch and length."""

    held: PersistentMemory
    activations: Activations
    context: int | None  # tokens that the model can read
    file_bytes: int  # of the base weights
    notes: list[str]

    def of_rows(self, longest: int | None) -> int:
        """Tokens of the longest row that goes through the model; packed rows are full."""
        wanted = self.held.recipe.data.max_length
        full = min(wanted, self.context or wanted)
        return full if self.held.recipe.train.packing else longest or full

    def memory(self, batch: int, length: int) -> dict[str, int]:
        held, gradients = self.held, self.held.gradients()
        most = max(self.activations.training(batch, length), self.activations.validation(length))
        activations = max(0, most - gradients)
        memory = {
            "weights": held.weights(),
            "adapters": held.adapters(),
            "gradients": gradients,
            "optimizer": held.optimizer(),
            "activations": activations,
        }
        memory["context"] = CUDA_CONTEXT if held.cuda else self._cpu_overhead(memory)
        memory = {name: int(size) for name, size in memory.items()}
        return memory | {"total": sum(memory.values())}

    def _cpu_overhead(self, used: dict[str, float]) -> float:
        """What a CPU's process holds on top, at its largest moment: a step, or the end of reading the weights."""
        many_kernels = self.held.wide < 4 and self.held.recipe.model.task == "seq_cls"
        step = HEAP * (used["gradients"] + used["activations"]) + (HALF_KERNELS if many_kernels else 0)
        is_converted = self.held.quantised or self.file_bytes != self.held.trained.base * self.held.size
        loading = used["weights"] + self.file_bytes if is_converted else 0  # the file is mapped meanwhile
        return max(step, loading - sum(used.values()))
