"""How much memory a training run takes, from the recipe and config.json alone, in milliseconds and without weights.

``docs/memory.md`` derives the formulas and holds them against measurements (``benchmarks/memory_estimate.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from studio.models.blocks import block_positions, rows_together
from studio.models.counts import (
    Adapted,
    Block,
    Tensor,
    Trained,
    bottleneck_size,
    count,
    oft_block,
    rotations,
    scales_inputs,
)
from studio.models.guessed import guessed_shapes
from studio.models.shapes import Norm, Shapes, shapes_of, text_config
from studio.recipe import Recipe
from studio.recipe_methods import PROMPTED, TAKEN_STARTS, WHOLE

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
CUDA_CONTEXT = 500_000_000
"""Bytes that a process with PyTorch takes of a GPU before the first tensor: 426 MiB with PyTorch 2.10 on CUDA 13.0
(https://github.com/unslothai/unsloth-zoo/pull/1053), and cuBLAS's work space."""
HEAP = 0.6
"""Of gradients and activations, what glibc's heap holds in holes beside them: measured on a CPU, docs/memory.md."""
RECIPE_BATCH, RECIPE_LENGTH, LEAST_LENGTH = 4096, 1_048_576, 8  # the recipe's own bounds
_DROPOUT = {"lora": "lora_dropout", "adalora": "lora_dropout", "vera": "vera_dropout", "bottleneck": "dropout"}
TOKEN_BYTES = 200
"""Bytes of a tokenizer's files for each token of its vocabulary: 72 (SmolLM2) to 134 (Llama 3) were seen."""
SMALL_FILES = 2_000_000  # configuration, states, model card
LOW_RANK = 128  # transformers' default for GaLore and Apollo


@dataclass(frozen=True)
class Estimate:
    """Parameters counted exactly, memory to about a fifth. ``memory_bytes`` has the keys ``weights``, ``adapters``,
    ``gradients``, ``optimizer``, ``activations``, ``context`` and ``total``, their sum.

    ``activations`` is what a step needs on top of the others at its worst moment: what the forward pass keeps and the
    backward pass and the optimizer work with (or the validation between two steps), less the room that gradients fill
    only later. ``context`` is what is held without being used: the GPU's context, or holes of the CPU's heap.
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
    if plan.validation(length) > plan.training(batch, length):
        notes = [*notes, "Validation takes more memory than training; a smaller per_device_eval_batch_size helps."]
    return Estimate(plan.trained.trainable, plan.trained.total, memory, notes, plan.disk())


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


_READ_THE_SAME = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")  # see studio.training.fused_lora


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
    return _Plan(
        recipe=recipe,
        shapes=shapes,
        trained=trained,
        cuda=cuda,
        size=size,
        context=context,
        new_tokens=new_tokens,
        notes=[*notes, *shapes.notes],
    )


def _dtype(recipe: Recipe, device: str) -> str:
    if recipe.model.dtype != "auto":
        return recipe.model.dtype
    return "float32" if recipe.method.kind in WHOLE or not device.startswith("cuda") else "bfloat16"


@dataclass(frozen=True)
class _Plan:
    """A recipe and a model, ready to be computed for any batch and length."""

    recipe: Recipe
    shapes: Shapes
    trained: Trained
    cuda: bool
    size: int  # bytes of a number of the base weights
    context: int | None  # tokens that the model can read
    new_tokens: int
    notes: list[str]

    @property
    def length(self) -> int:
        wanted = self.recipe.data.max_length
        return min(wanted, self.context or wanted)

    def of_rows(self, longest: int | None) -> int:
        """Tokens of the longest row that goes through the model; packed rows are full."""
        return self.length if self.recipe.train.packing else longest or self.length

    @property
    def quantised(self) -> bool:
        return self.recipe.model.quantization != "none"

    @property
    def wide(self) -> int:
        """Bytes of a number between the layers: PEFT turns all that is not quantised into float32."""
        return 4 if self.quantised else self.size

    def memory(self, batch: int, length: int) -> dict[str, int]:
        weights, gradients, optimizer = self.weights(), self.of_trained(self.bytes_of), self.of_trained(self.state)
        adapters = sum(t.numbers * n * self.bytes_of(t) for t, n in self.trained.tensors.items() if t.kind != "base")
        adapters += 4 * (self.trained.frozen + self.trained.constants)
        activations = max(0, self.training(batch, length) - gradients, self.validation(length) - gradients)
        memory = {
            "weights": weights,
            "adapters": adapters,
            "gradients": gradients,
            "optimizer": optimizer,
            "activations": activations,
            "context": CUDA_CONTEXT if self.cuda else HEAP * (gradients + activations),
        }
        memory = {name: int(size) for name, size in memory.items()}
        return memory | {"total": sum(memory.values())}

    def weights(self) -> float:
        """The base model; what of it is quantised and what is not."""
        model = self.recipe.model
        if not self.quantised:
            return self.trained.base * self.size
        if model.quantization == "int8":
            per_number = 1.0  # and a float32 scale for each output
        elif model.double_quantization:
            per_number = 0.5 + 1 / 64 + 4 / (64 * 256)  # a one-byte scale for 64, and a float32 one for 256 of those
        else:
            per_number = 0.5 + 4 / 64
        return self.shapes.matrices * per_number + (self.trained.base - self.shapes.matrices) * 4

    def bytes_of(self, tensor: Tensor) -> int:
        """Bytes of a number of a trained tensor: PEFT keeps adapters in float32 and copies of layers as they are. TRL
        turns all of it into bfloat16 where the base is quantised, but for the lengths of DoRA."""
        if tensor.kind == "magnitude":
            return 4
        if self.quantised:
            return 2
        return 4 if tensor.kind == "adapter" else self.size

    def of_trained(self, each: Callable[[Tensor], float]) -> float:
        return sum(t.numbers * n * each(t) for t, n in self.trained.tensors.items())

    def state(self, tensor: Tensor) -> float:
        """Bytes that the optimizer keeps for each number of a trained tensor."""
        optim, own = self.recipe.train.optim, self.bytes_of(tensor)
        # AdaLoRA's importance of each number: the last one, and the means of it and of its spread
        more = 3 * own if self.recipe.method.kind == "adalora" and tensor.kind == "adapter" else 0
        if optim == "sgd":
            return more
        if optim == "adafactor":  # a float32 number for each row and each column
            if len(tensor.shape) < 2:
                return 4 + more
            *rest, rows, columns = tensor.shape
            return 4 * math.prod(rest) * (rows + columns) / tensor.numbers + more
        if optim in ("galore_adamw", "apollo_adamw") and tensor.where == "block" and len(tensor.shape) == 2:
            short, long = sorted(tensor.shape)
            rank = min(LOW_RANK, short)
            return own * rank * (2 * long + short) / tensor.numbers + more
        if optim in ("adamw_torch", "adamw_torch_fused", "galore_adamw", "apollo_adamw"):
            return 2 * own + more
        states = 1 if "lion" in optim else 2
        if "8bit" in optim and tensor.numbers >= 4096 and tensor.where != "embedding":
            return states * (1 + 4 / 256) + more  # a float32 scale for 256
        return states * 4 + more

    def disk(self) -> dict[str, int]:
        """Bytes of the checkpoints and the saved model. A checkpoint is written aside before an old one goes."""
        train, trained, method = self.recipe.train, self.trained, self.recipe.method
        small = SMALL_FILES + TOKEN_BYTES * self.shapes.vocabulary
        if method.kind in WHOLE:
            saved = trained.base * self.size
        elif method.kind in PROMPTED:  # the vectors that come out at the end
            width = 2 * self.shapes.layers * self.shapes.keys if method.kind == "prefix_tuning" else self.shapes.hidden
            saved = 4 * method.num_virtual_tokens * width
        else:
            saved = self.of_trained(self.bytes_of) + 4 * trained.frozen
            saved += 4 * trained.constants * (method.kind == "vera")  # its shared matrices; BOFT's are made anew
            if self.new_tokens:  # PEFT then writes the whole embedding, and the head where it is another table
                saved += self.shapes.outer * self.size
        # trained.pt has what these do not save
        own = self.of_trained(self.bytes_of) if method.kind in (*PROMPTED, "adalora") else 0
        checkpoint = saved + own + self.of_trained(self.state) + small
        checkpoints = (max(train.save_total_limit, 2 if train.keep_best else 1) + 1) * checkpoint
        # one that starts at the weights is kept as it began, and saved with twice the rank
        model = (saved + small) * (3 if getattr(method, "init_lora_weights", "default") in TAKEN_STARTS else 1)
        sizes = {"checkpoint": checkpoint, "checkpoints": checkpoints, "model": model, "total": checkpoints + model}
        return {name: int(size) for name, size in sizes.items()}

    def step(self) -> float:
        """Bytes that the optimizer's step works with beside its state."""
        optim, most = self.recipe.train.optim, self.trained.largest
        if optim == "adamw_torch":  # the root of the second state: on a GPU of all tensors at once, else of one, twice
            return self.of_trained(self.bytes_of) if self.cuda else 2 * most * self._largest_bytes()
        if optim == "adafactor":  # in float32: the update and its square; of shorter numbers also weight and gradient
            return (2 if self._largest_bytes() == 4 else 4) * most * 4
        if optim in ("galore_adamw", "apollo_adamw"):  # the decomposition of the largest matrix's gradient
            return 3 * 4 * max((t.numbers for t in self.trained.tensors if t.where == "block"), default=0)
        return 0

    def _largest_bytes(self) -> int:
        largest = max(self.trained.tensors, key=lambda t: t.numbers, default=None)
        return self.bytes_of(largest) if largest else 0

    def training(self, batch: int, length: int) -> float:
        """What a step needs beside weights, adapters and the optimizer's state, gradients included.

        The gradients of a batch come while its activations go, so they do not add up: the worst moment is at the loss,
        at the head's backward pass, at the end of the backward pass, or in the optimizer's step. Gradients that
        are added up over several batches are there all the time.
        """
        gradients, kept, work = self.of_trained(self.bytes_of), self.kept(batch, length), self.work(batch, length)
        head, trained = self.head(batch, length), self.trained
        rows = self.shapes.hidden * (self.shapes.classes or self.shapes.vocabulary)
        of_head = rows * self.size if trained.head else 0
        again = rows * self.size if trained.head and trained.embedding and self.shapes.tied else 0
        if self._in_blocks():  # the head's gradient is made with the loss, and scaled in the backward pass
            head, made = head + (4 * rows if trained.head else 0), 2 * of_head
        else:
            made = of_head + head / 3
        before = gradients if self.recipe.train.gradient_accumulation_steps > 1 else 0
        return max(
            before + kept + max(head, work),
            before + kept + max(made, of_head + work),
            gradients + max(again, work),
            gradients + self.step(),
        )

    def validation(self, length: int) -> float:
        """What the validation needs between two steps, when there are no gradients: the logits, as they are and in
        float32, and their log-softmax."""
        data, shapes, wide = self.recipe.data, self.shapes, self.wide
        if not (data.holdout or data.holdout_rows or data.holdout_column or data.holdout_source):
            return 0
        batch = self.recipe.train.per_device_eval_batch_size
        if self._in_blocks():
            tables = self._block(batch * length) / batch
        else:
            tables = (8 if wide == 4 else 8 + wide) * (shapes.classes or length * shapes.vocabulary)
        block = self._seen(length)[0] * wide * (3 * shapes.intermediate + 2 * shapes.hidden)
        return batch * max(tables, block) + self._matrices()

    def head(self, batch: int, length: int) -> float:
        """The head's largest work space, with a label at every position: a block of positions (``studio.models.loss``)
        and the states before the head. Where logits are capped it is all of them: log-softmax, and the gradients of it
        and of the logits, three tables of vocabulary x 4 bytes a token, and one more for the cap."""
        if self.shapes.classes:
            return 12 * batch * self.shapes.classes
        if self._in_blocks():
            return self._block(batch * length) + batch * length * self.shapes.hidden * self.wide
        return (12 + self.wide) * batch * length * self.shapes.vocabulary

    def _in_blocks(self) -> bool:
        """Whether the loss is taken from the states before the head, some positions at a time."""
        return not (self.shapes.classes or self.shapes.capped)

    def _block(self, positions: int) -> float:
        """The logits of a block, and those of them that are float32 at a time."""
        vocabulary, device = self.shapes.vocabulary, "cuda" if self.cuda else "cpu"
        whole = min(positions, block_positions(vocabulary, device))
        return vocabulary * (whole * self.wide + 4 * min(whole, rows_together(vocabulary, device)))

    def kept(self, batch: int, length: int) -> float:
        """Bytes that the forward pass keeps for the backward pass, but for the head's."""
        shapes, trained = self.shapes, self.trained
        rows, keys = self._seen(length)
        tokens = batch * rows
        total = tokens * shapes.last_norm.width * (4 if shapes.rms and not self._fuses_norms() else self.wide)
        if trained.last_norm and shapes.rms:
            total += tokens * shapes.hidden * self._norm_bytes()
        if trained.head or self._in_blocks():  # what the head reads, or the gradient of it
            total += tokens * shapes.hidden * self.wide
        if self.recipe.train.gradient_checkpointing:
            # with an adapter, PEFT has the embeddings ask for gradients, so that no block is left out
            layers = sum(trained.blocks.values()) if self.recipe.method.kind in WHOLE else shapes.layers
            return total + tokens * shapes.hidden * self.wide * layers
        return total + sum(n * self.block(block, batch, rows, keys) for block, n in trained.blocks.items())

    def _norm_bytes(self) -> int:
        """Bytes of a number that a trained RMSNorm multiplies with its own; the fused one makes it again."""
        if self._fuses_norms():
            return 0
        return 4 if self.shapes.rms_wide else self.wide

    def work(self, batch: int, length: int) -> float:
        """The largest work space of one block; with checkpointing also what it keeps while it is computed again."""
        shapes = self.shapes
        rows, keys = self._seen(length)
        total = batch * rows * self.wide * (3 * shapes.intermediate + 2 * shapes.hidden) + self._matrices()
        if self.recipe.train.gradient_checkpointing:
            total += max((self.block(block, batch, rows, keys) for block in self.trained.blocks), default=0)
        return total

    def _seen(self, length: int) -> tuple[int, int]:
        """Tokens of a row that are computed, and those that they attend to."""
        if self.recipe.method.kind not in PROMPTED:
            return length, length
        longer = length + self.recipe.method.num_virtual_tokens
        return (length, longer) if self.recipe.method.kind == "prefix_tuning" else (longer, longer)

    def block(self, block: Block, batch: int, rows: int, keys: int) -> float:
        """Bytes that one block keeps.

        Args:
            rows, keys: tokens of a row that are computed, and that are attended to.
        """
        shapes, size, tokens = self.shapes, self.wide, batch * rows
        total = tokens * sum(n.width for n in shapes.norms) * (4 if shapes.rms and not self._fuses_norms() else size)
        total += self._attention(batch, rows, keys)
        curve = shapes.curve - (1 if self._fuses_layers() and shapes.silu_gate else 0)
        total += tokens * size * curve * shapes.intermediate
        total += tokens * shapes.dropouts * shapes.hidden * (1 if self.cuda else size)
        # inputs of trained matrices, each tensor once; the attention's result is kept anyway
        inputs: dict[str, int] = {}
        for layer in block.whole:
            if isinstance(layer, Norm):
                total += tokens * layer.width * self._norm_bytes() if shapes.rms else 0
            else:
                inputs[layer.reads or layer.name] = layer.inputs
        for adapted in block.adapted:
            shared, of_token, of_matrix = self._adapter(adapted)
            if shared:
                inputs[adapted.linear.reads or adapted.linear.name] = adapted.linear.inputs
            total += tokens * of_token + of_matrix
        if self.recipe.model.quantization == "int8":  # its backward pass is handed all inputs
            inputs = {m.reads or m.name: m.inputs for m in shapes.of_block()}
        inputs.pop("attention", None)
        if self._fuses_norms() and shapes.rotary:
            inputs.pop("result", None)  # queries keep their order, and with it the result, which is not copied then
        return total + tokens * size * sum(inputs.values())

    def _attention(self, batch: int, rows: int, keys: int) -> float:
        """Queries, keys, values, the result and one float32 for each head; a mask, if rows are packed or have more keys
        than tokens, and with it keys and values are repeated for all heads."""
        shapes, size, tokens, seen = self.shapes, self.wide, batch * rows, batch * keys
        q, k = shapes.queries, shapes.keys
        result = tokens * (size * q + 4 * shapes.heads)
        masked = keys != rows or self.recipe.train.packing
        written_out = shapes.attention_dropout and not self.cuda  # no kernel for CPUs has dropout
        if written_out or shapes.eager:
            wide, weights = (4, 12) if written_out else (size, 8)
            return result + wide * q * (tokens + 2 * seen) + weights * shapes.heads * rows * seen
        if shapes.rotary:
            result += tokens * size * q
        if masked:
            result += rows * seen * size
            if q != k:
                return result + seen * size * 2 * q
        together = sum(m.reads == "first" for m in shapes.linears) == 1  # one matrix gives all three
        values = q + 2 * k if together else k  # they are a part of its result
        return result + seen * size * (values + (k if shapes.rotary else 0))

    def _adapter(self, adapted: Adapted) -> tuple[bool, float, float]:
        """What the adapter of one matrix keeps: whether the tensor that it reads, bytes for each token, and bytes that
        are the same for any number of tokens (matrices that it makes for the forward pass)."""
        method: Any = self.recipe.method
        kind, (linear, r) = method.kind, adapted
        i, o, size = linear.inputs, linear.outputs, self.wide
        own = 2 if self.quantised else 4  # the adapter's numbers
        same = own == size
        copy = 0 if same else i * own  # in another format the input is copied for each matrix
        rate = getattr(method, _DROPOUT.get(kind, ""), 0)
        mask = (1 if self.cuda else own) if rate else 0  # what is dropped, for each number
        if kind == "lora" and self._fused():
            # the studio's pass: copies of both matrices in the base's format; in its own of the second, and of the
            # first where it becomes one with those of layers that read the same
            joined = linear.name.endswith(_READ_THE_SAME) and not method.use_dora
            copies = r * size * (o if size == 4 and not joined else i + o)
            if method.use_dora:  # and the result before it is scaled, the factors and the lengths of the rows
                return True, (r + o) * size, copies + o * (size + 4)
            return True, r * size, copies
        if kind in ("lora", "adalora"):
            shared, of_token = same and not rate, (i * (own + mask) if rate else copy) + r * own
            if kind == "adalora":
                return shared, of_token + (0 if same else o * own), r * i * own
            if not method.use_dora:
                return shared, of_token, 0
            # with dropout the base's product is made once more, by a copy of the weight in the adapter's format
            return shared, of_token + o * (own if rate else size) + o * own, 0 if same or not rate else i * o * own
        if kind == "ia3":
            if scales_inputs(method, self.shapes, linear.name):
                return same, copy, 0
            return False, o * size, 0
        if kind in ("loha", "lokr"):
            return same, copy, i * o * own
        if kind == "oft":
            return same, copy, 4 * i * oft_block(i, method.oft_block_size) * own
        if kind == "boft":
            turns = rotations(method, self.cuda)
            moved = i * size if turns > 1 else 0  # the inputs in another order, for each factor
            turning, copies = turns * i * method.boft_block_size, 0 if same else o * size
            return True, o * size + turns * moved, turning * (12 + (0 if same else size)) + copies
        if kind == "vera":
            return False, (r + o) * own + i * mask, 0
        if kind == "hra":
            return True, r * size, 2 * r * i * (own + (0 if same else size))
        width = bottleneck_size(o, method.reduction_factor)
        inside = width * (2 if method.non_linearity in ("gelu", "silu") else 1)
        return False, (o + inside) * own + o * mask, 0

    def _fused(self) -> bool:
        """Whether LoRA goes through the studio's own pass (``studio.training.fused_lora``)."""
        train = self.recipe.train
        plain = not (self.quantised or self.recipe.method.lora_dropout or self.shapes.transposed)
        return plain and train.fused_passes and train.distributed == "ddp"

    def _fuses_layers(self) -> bool:
        """Whether norms and gated layers train in fused passes (``studio.training.fused_layers``)."""
        train = self.recipe.train
        return train.fused_passes and train.distributed == "ddp" and not self.cuda

    def _fuses_norms(self) -> bool:
        return self._fuses_layers() and self.shapes.rms and not self.shapes.rms_offset

    def _matrices(self) -> float:
        """The largest work space of methods that make a matrix of the size of a weight, in bytes."""
        kind = self.recipe.method.kind
        adapted = [a.linear for block in self.trained.blocks for a in block.adapted]
        area = max((m.inputs * m.outputs for m in adapted), default=0)
        square = max((m.inputs**2 for m in adapted), default=0)  # of an identity
        if kind in ("loha", "lokr"):
            return 16 * area
        if kind == "lora" and self.recipe.method.use_dora and not self._fused():
            return 16 * area + 4 * square
        if self.quantised:  # a matrix unpacked, in the format that it computes in and in float32
            return 6 * max((m.inputs * m.outputs for m in self.shapes.linears), default=0)
        return 0
