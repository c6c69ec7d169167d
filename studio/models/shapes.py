"""The layers of a model and their sizes, worked out of config.json without loading anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple


class Linear(NamedTuple):
    """A matrix of one block: dotted name inside the block, inputs, outputs, whether it has a bias, and the tensor that
    it reads. Matrices that read the same tensor share what is kept of it; ``attention`` is the attention's result."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False
    reads: str = ""

    @property
    def numbers(self) -> int:
        return self.inputs * self.outputs + (self.outputs if self.bias else 0)


class Norm(NamedTuple):
    """A norm: dotted name inside the block, its own numbers, and how many numbers of a token it keeps to go back."""

    name: str
    numbers: int
    width: int


class Module(NamedTuple):
    """A layer with numbers of its own: whole dotted name, how many numbers, the shape of its weight, the block that it
    stands in (-1 before the blocks, ``layers`` behind them), and what it is (None: an embedding)."""

    name: str
    numbers: int
    shape: tuple[int, ...]
    block: int
    layer: Linear | Norm | None


@dataclass(frozen=True)
class Shapes:
    """Sizes of a decoder: ``layers`` equal blocks between an embedding and an output head."""

    block: str  # dotted name of the blocks: model.layers
    layers: int
    hidden: int
    intermediate: int
    queries: int  # heads * head_dim
    keys: int  # key-value heads * head_dim
    heads: int
    vocabulary: int
    tied: bool
    linears: tuple[Linear, ...]
    norms: tuple[Norm, ...]  # of one block
    last_norm: Norm  # behind the blocks; its dotted name from the top
    sublayers: tuple[str, str]  # the matrices that give the results of attention and of the feed-forward part
    embedding: str = "model.embed_tokens"
    positions: tuple[str, int] = ("", 0)  # a table of learnt positions: dotted name and rows
    head: str = "lm_head"
    classes: int = 0  # outputs of a head that sorts into classes; 0: the head gives a token
    curve: int = 3  # how many times the MLP's width its non-linearity keeps to go back; 3 with a gate
    silu_gate: bool = False  # gate and up are matrices of their own, and the gate goes through SiLU
    rms: bool = True  # norms compute in float32 and keep that (RMSNorm), not in the model's own format (LayerNorm)
    rms_offset: bool = False  # norms multiply with one more than their own numbers
    rms_wide: bool = False  # what their own numbers are multiplied with is in float32, too
    rotary: bool = True  # queries and keys are turned into new tensors after their projection
    transposed: bool = False  # matrices are transformers' Conv1D, which the fused LoRA leaves alone
    dropouts: int = 0  # widths of the model that a block's dropouts keep masks of
    attention_dropout: bool = False
    eager: bool = False  # attention is written out, and keeps its weights
    capped: bool = False  # the logits go through tanh, which is kept
    notes: tuple[str, ...] = field(default=())

    @property
    def total(self) -> int:
        """All parameters, a tied head counted once."""
        return self.layers * (sum(m.numbers for m in self.linears) + self.other_per_layer) + self.other + self.outer

    @property
    def outer(self) -> int:
        """Numbers in the embedding and the output head."""
        return self.hidden * (self.vocabulary + (0 if self.tied else self.classes or self.vocabulary))

    @property
    def other_per_layer(self) -> int:
        """Numbers of a block that are in no matrix."""
        return sum(n.numbers for n in self.norms)

    @property
    def other(self) -> int:
        """Numbers outside the blocks, without embedding and head."""
        return self.last_norm.numbers + self.positions[1] * self.hidden

    @property
    def matrices(self) -> int:
        """Numbers in the blocks' matrices: what quantisation shrinks."""
        return self.layers * sum(m.inputs * m.outputs for m in self.linears)

    def of_block(self) -> tuple[Linear, ...]:
        """The matrices of one block."""
        return self.linears

    def inside(self) -> Iterator[Module]:
        """The layers of all blocks, from the first to the last."""
        for i in range(self.layers):
            for m in self.linears:
                yield Module(f"{self.block}.{i}.{m.name}", m.numbers, (m.outputs, m.inputs), i, m)
            for n in self.norms:
                yield Module(f"{self.block}.{i}.{n.name}", n.numbers, (n.numbers,), i, n)

    def modules(self) -> Iterator[Module]:
        """All layers that have numbers; embedding and head both, also if they are tied."""
        yield Module(self.embedding, self.vocabulary * self.hidden, (self.vocabulary, self.hidden), -1, None)
        name, rows = self.positions
        if rows:
            yield Module(name, rows * self.hidden, (rows, self.hidden), -1, None)
        yield from self.inside()
        last, rows = self.last_norm, self.classes or self.vocabulary
        yield Module(last.name, last.numbers, (last.numbers,), self.layers, last)
        head = Linear(self.head, self.hidden, rows, reads="last")
        yield Module(self.head, rows * self.hidden, (rows, self.hidden), self.layers, head)

    def with_tokens(self, new: int) -> Shapes:
        """The same with rows for new tokens in the embedding and the head."""
        return replace(self, vocabulary=self.vocabulary + new) if new else self

    def with_classes(self, classes: int) -> Shapes:
        """The same with a head that sorts texts into so many classes, as transformers makes it (``score``)."""
        return replace(self, head="score", tied=False, classes=classes)


def text_config(config: dict) -> dict:
    """The part of a configuration that describes the language model (of a model that also sees or hears)."""
    inner = config.get("text_config") or config.get("llm_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def shapes_of(config: dict) -> Shapes | None:
    """The shapes of a known architecture; None for an unknown one (mixtures of experts, state-space models, ...)."""
    config = text_config(config)
    family = config.get("model_type", "")
    build = _FAMILIES.get(family)
    try:
        return build(config, family) if build else None
    except (KeyError, TypeError):  # a key that the formula needs is missing
        return None


def _llama_like(config: dict, family: str) -> Shapes:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    inner = config["intermediate_size"]
    head_dim = config.get("head_dim") or (256 if family.startswith("gemma") else hidden // heads)
    queries, keys = heads * head_dim, (config.get("num_key_value_heads") or heads) * head_dim
    bias = bool(config.get("attention_bias", False))
    qkv_bias = bias or family == "qwen2"
    mlp_bias = bool(config.get("mlp_bias", False))
    gemma = family.startswith("gemma")
    if family == "phi3":
        linears = [
            Linear("self_attn.qkv_proj", hidden, queries + 2 * keys, reads="first"),
            Linear("self_attn.o_proj", queries, hidden, reads="result"),
            Linear("mlp.gate_up_proj", hidden, 2 * inner, reads="second"),
            Linear("mlp.down_proj", inner, hidden, reads="product"),
        ]
    else:
        linears = [
            Linear("self_attn.q_proj", hidden, queries, qkv_bias, "first"),
            Linear("self_attn.k_proj", hidden, keys, qkv_bias, "first"),
            Linear("self_attn.v_proj", hidden, keys, qkv_bias, "first"),
            Linear("self_attn.o_proj", queries, hidden, bias and family != "qwen2", "attention"),
            Linear("mlp.gate_proj", hidden, inner, mlp_bias, "second"),
            Linear("mlp.up_proj", hidden, inner, mlp_bias, "second"),
            Linear("mlp.down_proj", inner, hidden, mlp_bias, "product"),
        ]
    behind = ["post_attention_layernorm", "post_feedforward_layernorm"]
    if family == "olmo2":
        names = behind
    elif family in ("gemma2", "gemma3_text"):
        names = ["input_layernorm", *behind, "pre_feedforward_layernorm"]
    else:
        names = ["input_layernorm", "post_attention_layernorm"]
    norms = [Norm(name, hidden, hidden) for name in names]
    if family in ("qwen3", "gemma3_text", "olmo2"):  # one norm for each head, or one over all
        one, other = (queries, keys) if family == "olmo2" else (head_dim, head_dim)
        norms += [Norm("self_attn.q_norm", one, queries), Norm("self_attn.k_norm", other, keys)]
    return Shapes(
        block="model.layers",
        layers=config["num_hidden_layers"],
        hidden=hidden,
        intermediate=inner,
        queries=queries,
        keys=keys,
        heads=heads,
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", family.startswith("gemma"))),
        linears=tuple(linears),
        norms=tuple(norms),
        last_norm=Norm("model.norm", hidden, hidden),
        sublayers=("self_attn.o_proj", "mlp.down_proj"),
        attention_dropout=bool(config.get("attention_dropout")),
        silu_gate=family != "phi3" and not gemma and config.get("hidden_act", "silu") in ("silu", "swish"),
        rms_offset=gemma,
        rms_wide=gemma or family == "olmo2",
        eager=family == "gemma2",  # which caps the weights
        capped=bool(config.get("final_logit_softcapping", 30.0 if family == "gemma2" else None)),
    )


def _gpt2(config: dict, family: str) -> Shapes:
    hidden, heads = config["n_embd"], config["n_head"]
    inner = config.get("n_inner") or 4 * hidden
    positions = config.get("n_positions") or config.get("n_ctx") or 1024
    return Shapes(
        block="transformer.h",
        layers=config["n_layer"],
        hidden=hidden,
        intermediate=inner,
        queries=hidden,
        keys=hidden,
        heads=heads,
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", True)),
        linears=(
            Linear("attn.c_attn", hidden, 3 * hidden, True, "first"),
            Linear("attn.c_proj", hidden, hidden, True, "attention"),
            Linear("mlp.c_fc", hidden, inner, True, "second"),
            Linear("mlp.c_proj", inner, hidden, True, "product"),
        ),
        norms=(Norm("ln_1", 2 * hidden, hidden), Norm("ln_2", 2 * hidden, hidden)),
        last_norm=Norm("transformer.ln_f", 2 * hidden, hidden),
        sublayers=("attn.c_proj", "mlp.c_proj"),
        embedding="transformer.wte",
        positions=("transformer.wpe", positions),
        curve=4,  # of its GELU, written out with tanh
        rms=False,
        rotary=False,
        transposed=True,
        dropouts=2 if config.get("resid_pdrop", 0.1) else 0,
        attention_dropout=bool(config.get("attn_pdrop", 0.1)),
    )


def _gpt_neox(config: dict, family: str) -> Shapes:
    hidden, heads, inner = config["hidden_size"], config["num_attention_heads"], config["intermediate_size"]
    bias = bool(config.get("attention_bias", True))
    return Shapes(
        block="gpt_neox.layers",
        layers=config["num_hidden_layers"],
        hidden=hidden,
        intermediate=inner,
        queries=hidden,
        keys=hidden,
        heads=heads,
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
        linears=(
            Linear("attention.query_key_value", hidden, 3 * hidden, bias, "first"),
            Linear("attention.dense", hidden, hidden, bias, "result"),
            Linear("mlp.dense_h_to_4h", hidden, inner, True, "second"),
            Linear("mlp.dense_4h_to_h", inner, hidden, True, "product"),
        ),
        # side by side (use_parallel_residual), both norms read the same tensor
        norms=(
            Norm("input_layernorm", 2 * hidden, hidden),
            Norm("post_attention_layernorm", 2 * hidden, 0 if config.get("use_parallel_residual", True) else hidden),
        ),
        last_norm=Norm("gpt_neox.final_layer_norm", 2 * hidden, hidden),
        sublayers=("attention.dense", "mlp.dense_4h_to_h"),
        embedding="gpt_neox.embed_in",
        head="embed_out",
        curve=1,
        rms=False,
        dropouts=2 if config.get("hidden_dropout") else 0,
        attention_dropout=bool(config.get("attention_dropout")),
    )


_FAMILIES = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "smollm3", "olmo2"),
        _llama_like,
    ),
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
}
