"""What a training step needs of memory beside what stays: activations, gradients while they come, work space.

``docs/memory.md`` derives the formulas.
"""

from __future__ import annotations

from typing import Any

from studio.models.blocks import block_positions, rows_together
from studio.models.counts import Adapted, Block, bottleneck_size, oft_block, rotations, scales_inputs
from studio.models.persistent_memory import PersistentMemory
from studio.models.shapes import Norm
from studio.recipe.methods import PROMPTED, WHOLE

_DROPOUT = {"lora": "lora_dropout", "adalora": "lora_dropout", "vera": "vera_dropout", "bottleneck": "dropout"}
_READ_THE_SAME = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")  # see studio.training.acceleration.fused_lora


class Activations:
    """Bytes for a batch of rows of a length in tokens, all rows as long as the longest."""

    def __init__(self, held: PersistentMemory):
        self._held = held
        self.recipe, self.shapes, self.trained = held.recipe, held.shapes, held.trained
        self.cuda, self.size = held.cuda, held.size
        self.quantised, self.wide = held.quantised, held.wide

    def training(self, batch: int, length: int) -> float:
        """What a step needs beside weights, adapters and the optimizer's state, gradients included.

        The gradients of a batch come while its activations go, so they do not add up: the worst moment is at the loss,
        at the head's backward pass, at the end of the backward pass, or in the optimizer's step. Gradients that
        are added up over several batches are there all the time.
        """
        gradients, kept, work = self._held.gradients(), self.kept(batch, length), self.work(batch, length)
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

    def step(self) -> float:
        """Bytes that the optimizer's step works with beside its state."""
        optim, most = self.recipe.train.optim, self.trained.largest
        if optim == "adamw_torch":  # the root of the second state: on a GPU of all tensors at once, else of one, twice
            return self._held.gradients() if self.cuda else 2 * most * self._largest_bytes()
        if optim == "adafactor":  # in float32: the update and its square; of shorter numbers also weight and gradient
            return (2 if self._largest_bytes() == 4 else 4) * most * 4
        if optim in ("galore_adamw", "apollo_adamw"):  # the decomposition of the largest matrix's gradient
            return 3 * 4 * max((t.numbers for t in self.trained.tensors if t.where == "block"), default=0)
        return 0

    def _largest_bytes(self) -> int:
        largest = max(self.trained.tensors, key=lambda t: t.numbers, default=None)
        return self._held.bytes_of(largest) if largest else 0

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
        """The head's largest work space, with a label at every position: a block of positions
        (``studio.models.labelled_loss``) and the states before the head. Where logits are capped it is all of them:
        log-softmax, and the gradients of it and of the logits, three tables of vocabulary x 4 bytes a token, and one
        more for the cap."""
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
        """Whether LoRA goes through the studio's own pass (``studio.training.acceleration.fused_lora``)."""
        train = self.recipe.train
        plain = not (self.quantised or self.recipe.method.lora_dropout or self.shapes.transposed)
        return plain and train.fused_passes and train.distributed == "ddp"

    def _fuses_layers(self) -> bool:
        """Whether norms and gated layers train in fused passes (``studio.training.acceleration.fused_layers``)."""
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
