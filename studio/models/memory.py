"""How much memory a training run takes, from the recipe and config.json alone, in milliseconds and without weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from studio.errors import StudioError
from studio.models.headers import BYTES, read_headers
from studio.models.shapes import Linear, Shapes, shapes_of, text_config
from studio.recipe import Recipe

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bytes an optimizer keeps per trained number, beside the number's gradient, where the number itself has 4 bytes.
STATE_BYTES = {"adamw_torch": 8, "adamw_torch_fused": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2, "sgd": 0}
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # half a byte, one scale byte per 64, one float per 256 scales


@dataclass(frozen=True)
class Estimate:
    """Parameters counted exactly, memory to about a fifth. ``memory_bytes`` has the keys ``weights``, ``adapters``,
    ``gradients``, ``optimizer``, ``activations`` and ``total``."""

    trainable_parameters: int
    total_parameters: int
    memory_bytes: dict[str, int]
    notes: list[str] = field(default_factory=list)

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
) -> Estimate:
    """What training by this recipe needs.

    Args:
        config: the model's config.json.
        device: ``cpu`` or ``cuda``; ``auto`` takes float32 on a CPU here, the larger of what it may choose.
        dtype: the resolved number format, where the caller knows it.
        length: tokens of the longest row; None takes ``data.max_length`` (or the model's context, if shorter).
        new_tokens: tokens that ``prepare_chat`` adds.
        folder: the model's folder; needed for architectures whose shapes are not known here.

    Raises:
        StudioError: an unknown architecture and no folder to read its weights' headers from.
    """
    notes: list[str] = []
    shapes = shapes_of(config) or _from_headers(config, folder, notes)
    full, quantised = recipe.method.kind == "full", recipe.model.quantization
    dtype = dtype or _dtype(recipe, device)
    size = ELEMENT_BYTES[dtype]

    rows = new_tokens * shapes.hidden * (1 if shapes.tied else 2)
    base = shapes.total + rows
    if full:
        adapters, trainable = 0, base
    else:
        adapters = shapes.lora_parameters(recipe.method.r, recipe.method.target_modules) + rows
        trainable = adapters

    if quantised == "none":
        weights = base * size
    else:  # PEFT holds what is not quantised (embedding, norms) in float32
        per_number = NF4_BYTES if quantised == "nf4" else 1.0
        weights = int(shapes.matrices * per_number) + (base - shapes.matrices) * 4
    trained_size = size if full else 4  # PEFT keeps adapters in float32
    if recipe.train.optim == "adafactor":  # one number per row and per column
        optimizer = trainable * 2 * trained_size // max(shapes.hidden, 1)
    else:
        optimizer = trainable * STATE_BYTES[recipe.train.optim] * trained_size // 4
    context = text_config(config).get("max_position_embeddings") or text_config(config).get("n_positions")
    length = length or min(recipe.data.max_length, context or recipe.data.max_length)
    tokens = recipe.train.per_device_train_batch_size * length
    memory = {
        "weights": weights,
        "adapters": adapters * 4,
        "gradients": trainable * trained_size,
        "optimizer": optimizer,
        "activations": activation_bytes(
            shapes, tokens, size, full, recipe.train.gradient_checkpointing, 0 if full else recipe.method.r
        ),
    }
    memory["total"] = sum(memory.values())
    return Estimate(trainable, base + adapters, memory, [*notes, *shapes.notes])


def activation_bytes(shapes: Shapes, tokens: int, size: int, full: bool, checkpointing: bool, r: int = 0) -> int:
    """What the forward pass keeps for the backward pass, and the largest work space of the head, in bytes.

    Counted from the tensors that autograd saves in transformers' Llama and GPT-2 (``saved_tensors_hooks``). Per token
    and block, with h the hidden size, q all query heads, k all key heads, f the width of the MLP, in numbers of
    ``size`` bytes where nothing else is said:

    - norms: inputs 2 h in float32, outputs 2 h; full tuning also keeps what the weights are multiplied with, 2 h;
    - attention: queries and result 2 q, keys and values 2 k; SDPA keeps no length x length matrix;
    - MLP: 4 f with a gate (its input and output, the other factor, the product), 6 f for GPT-2's tanh GELU;
    - LoRA: its inner r numbers per matrix in float32, and where the base has 2-byte numbers a float32 copy of each
      matrix's input (in place of the outputs of the norms and of the product in the MLP).

    With checkpointing only each block's input stays, and one block in full while it is computed again.

    The head takes the worst case, a label at every position: logits, log-softmax and their gradients are five tables
    of vocabulary x 4 bytes a token, and 2-byte logits one of 2 bytes more.

    Measured as growth of the resident memory against this, SmolLM2-135M on a CPU, batch 8 of 160 tokens: see
    ``tests/models/test_memory.py``.
    """
    h, q, k, f = shapes.hidden, shapes.queries, shapes.keys, shapes.intermediate
    block = 2 * h * 4 + size * (2 * q + 2 * k + (4 if shapes.gated else 6) * f)
    if full:
        block += size * 4 * h
    else:
        block += 4 * r * len(shapes.linears)
        block += size * 2 * h if size == 4 else 4 * shapes.inputs - size * f
    kept = size * h * shapes.layers + block if checkpointing else block * shapes.layers
    head = shapes.vocabulary * (20 + (size if size < 4 else 0))
    return int(tokens * (kept + head))


def _dtype(recipe: Recipe, device: str) -> str:
    if recipe.model.dtype != "auto":
        return recipe.model.dtype
    return "float32" if recipe.method.kind == "full" or not device.startswith("cuda") else "bfloat16"


def _from_headers(config: dict, folder: Path | None, notes: list[str]) -> Shapes:
    """Shapes guessed from the names and sizes of the tensors on the disk."""
    config = text_config(config)
    tensors = read_headers(folder) if folder else {}
    if not tensors:
        raise StudioError(
            f"The memory for the architecture {config.get('model_type') or 'of this model'} cannot be estimated.",
            "Fetch the model first; its files tell its size.",
            field="model.id",
        )
    notes.append(f"{config.get('model_type', 'This architecture')} is not known here; the estimate is rough.")
    outside = ("embed", "wte", "wpe", "lm_head", "shared", "norm", "router")
    matrices = {
        n: t
        for n, t in tensors.items()
        if len(t.shape) == 2 and n.endswith(".weight") and not any(o in n.lower() for o in outside)
    }
    tables = [t for n, t in tensors.items() if len(t.shape) == 2 and n not in matrices and t.dtype in BYTES]
    table = max(tables, key=lambda t: t.count, default=None)
    vocabulary, hidden = table.shape if table else (config.get("vocab_size", 0), config.get("hidden_size", 0))
    layers = int(config.get("num_hidden_layers") or config.get("n_layer") or 1)
    linears = tuple(Linear(n.removesuffix(".weight"), t.shape[1], t.shape[0]) for n, t in matrices.items())
    everything = sum(t.count for t in tensors.values())
    inside = sum(t.count for t in matrices.values())
    outer = vocabulary * hidden
    heads = int(config.get("num_attention_heads") or 1)
    inner = int(config.get("intermediate_size") or max((m.outputs for m in linears), default=4 * hidden))
    return _Guessed(
        block="",
        layers=layers,
        hidden=hidden,
        intermediate=inner,
        queries=hidden,
        keys=hidden,
        heads=heads,
        vocabulary=vocabulary,
        tied=True,
        linears=linears,
        other_per_layer=0,
        other=max(0, everything - inside - outer),
    )


class _Guessed(Shapes):
    """Shapes whose ``linears`` name the matrices of all blocks at once."""

    @property
    def total(self) -> int:
        return self.matrices + self.other + self.outer

    @property
    def matrices(self) -> int:
        return sum(m.inputs * m.outputs for m in self.linears)

    @property
    def inputs(self) -> int:
        return sum(m.inputs for m in self.linears) // self.layers

    def lora_parameters(self, r: int, target_modules: str | list[str]) -> int:
        names = [target_modules] if isinstance(target_modules, str) else target_modules
        every = target_modules == "all-linear"
        return sum(
            r * (m.inputs + m.outputs)
            for m in self.linears
            if every or any(m.name == t or m.name.endswith(f".{t}") for t in names)
        )
