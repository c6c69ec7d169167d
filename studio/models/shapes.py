"""The layers of a model and their sizes, worked out of config.json without loading anything."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple


class Linear(NamedTuple):
    """A matrix of one block: dotted name inside the block, inputs, outputs, and whether it has a bias."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False


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
    other_per_layer: int  # numbers in norms and the like, per block
    other: int  # numbers outside the blocks, without embedding and head
    embedding: str = "model.embed_tokens"
    head: str = "lm_head"
    gated: bool = True  # the MLP multiplies two projections
    notes: tuple[str, ...] = field(default=())

    @property
    def total(self) -> int:
        """All parameters, a tied head counted once."""
        matrices = sum(m.inputs * m.outputs + (m.outputs if m.bias else 0) for m in self.linears)
        return self.layers * (matrices + self.other_per_layer) + self.other + self.outer

    @property
    def outer(self) -> int:
        """Numbers in the embedding and the output head."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def matrices(self) -> int:
        """Numbers in the blocks' matrices: what quantisation shrinks."""
        return self.layers * sum(m.inputs * m.outputs for m in self.linears)

    @property
    def inputs(self) -> int:
        """Inputs of all matrices of one block together."""
        return sum(m.inputs for m in self.linears)

    def lora_parameters(self, r: int, target_modules: str | list[str]) -> int:
        """Numbers in LoRA's two matrices over all matching layers: ``r * (inputs + outputs)`` each, as PEFT has it."""
        if target_modules == "all-linear":
            return self.layers * sum(r * (m.inputs + m.outputs) for m in self.linears)
        every = [(f"{self.block}.{i}.{m.name}", m.inputs + m.outputs) for i in range(self.layers) for m in self.linears]
        every += [(name, self.vocabulary + self.hidden) for name in (self.embedding, self.head)]
        if isinstance(target_modules, str):
            return sum(r * size for name, size in every if re.fullmatch(target_modules, name))
        return sum(r * size for name, size in every if any(name == t or name.endswith(f".{t}") for t in target_modules))


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
    if family == "phi3":
        linears = [
            Linear("self_attn.qkv_proj", hidden, queries + 2 * keys),
            Linear("self_attn.o_proj", queries, hidden),
            Linear("mlp.gate_up_proj", hidden, 2 * inner),
            Linear("mlp.down_proj", inner, hidden),
        ]
    else:
        linears = [
            Linear("self_attn.q_proj", hidden, queries, qkv_bias),
            Linear("self_attn.k_proj", hidden, keys, qkv_bias),
            Linear("self_attn.v_proj", hidden, keys, qkv_bias),
            Linear("self_attn.o_proj", queries, hidden, bias and family != "qwen2"),
            Linear("mlp.gate_proj", hidden, inner, mlp_bias),
            Linear("mlp.up_proj", hidden, inner, mlp_bias),
            Linear("mlp.down_proj", inner, hidden, mlp_bias),
        ]
    norms = (4 if family in ("gemma2", "gemma3_text") else 2) * hidden
    if family in ("qwen3", "gemma3_text"):
        norms += 2 * head_dim  # norms of queries and keys
    if family == "olmo2":
        norms += queries + keys
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
        other_per_layer=norms,
        other=hidden,
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
            Linear("attn.c_attn", hidden, 3 * hidden, True),
            Linear("attn.c_proj", hidden, hidden, True),
            Linear("mlp.c_fc", hidden, inner, True),
            Linear("mlp.c_proj", inner, hidden, True),
        ),
        other_per_layer=4 * hidden,
        other=positions * hidden + 2 * hidden,
        embedding="transformer.wte",
        gated=False,
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
            Linear("attention.query_key_value", hidden, 3 * hidden, bias),
            Linear("attention.dense", hidden, hidden, bias),
            Linear("mlp.dense_h_to_4h", hidden, inner, True),
            Linear("mlp.dense_4h_to_h", inner, hidden, True),
        ),
        other_per_layer=4 * hidden,
        other=2 * hidden,
        embedding="gpt_neox.embed_in",
        head="embed_out",
        gated=False,
    )


_FAMILIES = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "smollm3", "olmo2"),
        _llama_like,
    ),
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
}
