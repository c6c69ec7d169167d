"""What a training run holds from its first step to its last: weights, what is trained of them, the optimizer's state.

And what of it goes to the disk. ``docs/memory.md`` derives the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from studio.models.counts import Tensor, Trained
from studio.models.shapes import Shapes
from studio.recipe import Recipe
from studio.recipe.methods import PROMPTED, TAKEN_STARTS, WHOLE

TOKEN_BYTES = 200
"""Bytes of a tokenizer's files for each token of its vocabulary: 72 (SmolLM2) to 134 (Llama 3) were seen."""
SMALL_FILES = 2_000_000  # configuration, states, model card
LOW_RANK = 128  # transformers' default for GaLore and Apollo


@dataclass(frozen=True)
class PersistentMemory:
    """A recipe and a model, and the bytes of what stays."""

    recipe: Recipe
    shapes: Shapes
    trained: Trained
    cuda: bool
    size: int  # bytes of a number of the base weights
    new_tokens: int = 0

    @property
    def quantised(self) -> bool:
        return self.recipe.model.quantization != "none"

    @property
    def wide(self) -> int:
        """Bytes of a number between the layers: PEFT turns all that is not quantised into float32."""
        return 4 if self.quantised else self.size

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

    def adapters(self) -> float:
        """What is trained beside the base model, and the constants of it."""
        adapters = sum(t.numbers * n * self.bytes_of(t) for t, n in self.trained.tensors.items() if t.kind != "base")
        return adapters + 4 * (self.trained.frozen + self.trained.constants)

    def gradients(self) -> float:
        return self.of_trained(self.bytes_of)

    def optimizer(self) -> float:
        return self.of_trained(self.state)

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
