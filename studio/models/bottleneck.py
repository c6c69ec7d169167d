"""Bottleneck adapters as a PEFT method: importing this module adds the type ``BOTTLENECK`` to PEFT.

An adapter reads the output y of a sublayer and gives ``y + up(f(down(y)))``, before the skip connection is added:

- ``houlsby``: after attention and after the feed-forward part (Houlsby et al. 2019, https://arxiv.org/abs/1902.00751);
- ``pfeiffer``: after the feed-forward part alone (Pfeiffer et al. 2021, https://arxiv.org/abs/2005.00247).

Both papers adapt BERT, which normalises after the skip connection. A pre-norm decoder (Llama) normalises what goes into
a sublayer, so there x becomes ``x + adapter(attention(norm(x)))``. The adapter wraps the sublayer's last linear layer:
dropout or a norm of the model's own that comes before the skip connection (BERT, Gemma 2) then follows the adapter.
AdapterHub's ``pfeiffer`` differs: in BERT its adapter reads the normalised sum with the skip connection.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from peft import mapping
from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import PeftType, register_peft_method
from torch import nn
from transformers.pytorch_utils import Conv1D

# f, a and b; f(a x + b) / a - b / a is close to x for the sizes that activations have
NON_LINEARITIES = {
    "relu": (torch.relu, 1.0, 8.0),
    "gelu": (nn.functional.gelu, 1.0, 8.0),
    "silu": (nn.functional.silu, 1.0, 8.0),
    "tanh": (torch.tanh, 0.01, 0.0),
    "identity": (lambda x: x, 1.0, 0.0),
}
NO_MERGE = (
    "Bottleneck adapters cannot be merged into the base weights: between their two matrices stands a non-linearity, "
    "so that no single matrix does the same. Keep the adapter beside the base model."
)

# Ends of the dotted names of the linear layers that give a sublayer's output; the longest that fits counts.
ATTENTION = (
    *("self_attn.o_proj", "linear_attn.out_proj"),  # Llama, Mistral, Qwen, Gemma, Phi-3, StarCoder 2
    *("self_attn.out_proj", "encoder_attn.out_proj"),  # OPT, BART
    *("attn.c_proj", "attn.attention.out_proj", "attn.out_proj"),  # GPT-2, GPT-Neo, GPT-J and MPT
    *("attention.dense", "self_attention.dense", "self_attn.dense"),  # GPT-NeoX and ALBERT, Falcon and BLOOM, Phi
    *("attention.output.dense", "crossattention.output.dense"),  # BERT, RoBERTa, DeBERTa
    *("attention.out_lin", "attn.Wo"),  # DistilBERT, ModernBERT
    *("SelfAttention.o", "EncDecAttention.o"),  # T5
)
FEED_FORWARD = (
    *("mlp.down_proj", "mlp.c_proj"),  # Llama, Mistral, Qwen, Gemma, Phi-3; GPT-2, GPT-Neo, StarCoder 2
    *("mlp.dense_4h_to_h", "mlp.fc2", "fc2"),  # GPT-NeoX, Falcon and BLOOM; Phi; OPT and BART
    *("mlp.fc_out", "ffn.down_proj", "mlp.Wo"),  # GPT-J, MPT, ModernBERT
    *("output.dense", "ffn.lin2", "ffn_output"),  # BERT, RoBERTa and DeBERTa; DistilBERT; ALBERT
    "DenseReluDense.wo",  # T5
)
PLACEMENTS = {
    "houlsby": {"attention": ATTENTION, "feed-forward": FEED_FORWARD},
    "pfeiffer": {"feed-forward": FEED_FORWARD},
}
OTHER_TOWERS = re.compile("vision|visual|audio|image")  # parts of a model that read pictures or sound


@dataclass
class BottleneckConfig(PeftConfig):
    """What an adapter looks like. ``placement`` says where adapters stand unless ``target_modules`` names the layers.

    Raises:
        ValueError: a value that is not among those allowed.
    """

    placement: str = "houlsby"
    reduction_factor: float = 16  # width of the model / width of the bottleneck
    non_linearity: str = "relu"
    residual: bool = True  # add the adapter's input to its output
    dropout: float = 0.0  # of the adapter's input
    target_modules: list[str] | str | None = None  # as PEFT matches them; None is filled in by output_modules
    modules_to_save: list[str] | None = None  # trained in full and saved with the adapter
    init_weights: bool = True  # False: all matrices at random, so that it does not start as the base model

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("BOTTLENECK")
        _check_choice("placement", self.placement, PLACEMENTS)
        _check_choice("non_linearity", self.non_linearity, NON_LINEARITIES)
        if not isinstance(self.reduction_factor, (int, float)) or not 0 < self.reduction_factor < math.inf:
            raise ValueError(f"reduction_factor must be a number above 0, not {self.reduction_factor!r}.")
        if not isinstance(self.dropout, (int, float)) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout!r}.")


def _check_choice(name: str, value: Any, choices) -> None:
    if value not in tuple(choices):
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")


def bottleneck_size(hidden: int, reduction_factor: float) -> int:
    """Width of the bottleneck of an adapter on ``hidden`` numbers; at least 1."""
    return max(1, int(hidden / reduction_factor))


def bottleneck_parameters(hidden_sizes: list[int], reduction_factor: float) -> int:
    """How many numbers adapters on outputs of these widths train: 2 h b + b + h for width h and bottleneck b each."""
    sizes = ((hidden, bottleneck_size(hidden, reduction_factor)) for hidden in hidden_sizes)
    return sum(2 * hidden * size + size + hidden for hidden, size in sizes)


def output_modules(model: nn.Module, placement: str) -> list[str]:
    """Ends of dotted names, for ``target_modules``, that match the linear layers which give the sublayers' outputs.

    They match nothing else: where the usual end would (BERT's ``output.dense`` also ends ``attention.output.dense``),
    it is drawn out to the left, at worst once a layer. Towers for pictures and sound are left out.

    Raises:
        ValueError: the layers of a part are not known, or it is a mixture of experts, which has no such layer.
    """
    _check_choice("placement", placement, PLACEMENTS)
    parts = PLACEMENTS[placement]
    modules = dict(model.named_modules())
    linear = [name for name, module in modules.items() if _width(module) and not OTHER_TOWERS.search(name)]
    some = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in linear))[:12]
    advice = f"Name target_modules; linear layers of {type(model).__name__} are: {', '.join(some) or 'none'}."
    if any(name.rsplit(".", 1)[-1] == "experts" for name in modules):
        raise ValueError(f"The feed-forward part is a mixture of experts, with no one output layer. {advice}")
    rules = {name: _rule(name) for name in linear}
    for part, ends in parts.items():
        if not any(rule in ends for rule in rules.values()):
            raise ValueError(f"The output layers of the {part} part are not known. {advice}")
    wanted = {name: rule for name, rule in rules.items() if any(rule in ends for ends in parts.values())}
    others = [name for name in modules if name not in wanted]
    return list(dict.fromkeys(_end(name, rule, others) for name, rule in wanted.items()))


def _rule(name: str) -> str | None:
    return max((end for end in ATTENTION + FEED_FORWARD if f".{name}".endswith(f".{end}")), key=len, default=None)


def _end(name: str, end: str, others: list[str]) -> str:
    """``end``, drawn out along ``name`` until it ends no other name."""
    while end != name and any(f".{other}".endswith(f".{end}") for other in others):
        end = name[: -len(end) - 1].rsplit(".", 1)[-1] + "." + end
    return end


def _width(layer: nn.Module) -> int | None:
    """Numbers in a linear layer's output for one token, also if it is wrapped; None for other layers."""
    if isinstance(layer, BaseTunerLayer):
        layer = layer.get_base_layer()
    return layer.nf if isinstance(layer, Conv1D) else getattr(layer, "out_features", None)


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A linear layer followed by its active adapters, one after the other.

    Adapters compute in their own number format, and the result has that of the base layer's output. The base layer is
    only called, so that it may be quantised.
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_dropout", "bottleneck_form")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down, self.bottleneck_up = nn.ModuleDict(), nn.ModuleDict()
        self.bottleneck_dropout = nn.ModuleDict()
        self.bottleneck_form: dict[str, tuple[str, bool]] = {}  # non-linearity, residual
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add an adapter, or replace the one of that name; a ValueError where the base layer is not linear."""
        if not (hidden := _width(self)):
            raise ValueError(f"An adapter follows a linear layer, not {type(self.get_base_layer()).__name__}.")
        size = bottleneck_size(hidden, config.reduction_factor)
        self.bottleneck_down[adapter_name] = nn.Linear(hidden, size)
        self.bottleneck_up[adapter_name] = nn.Linear(size, hidden)
        self.bottleneck_dropout[adapter_name] = nn.Dropout(config.dropout)
        self.bottleneck_form[adapter_name] = (config.non_linearity, config.residual)
        self._initialise(adapter_name, config)
        self._move_adapter_to_device_of_base_layer(adapter_name)

    @torch.no_grad()
    def _initialise(self, adapter_name: str, config: BottleneckConfig) -> None:
        down, up = self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name]
        for layer in (down, up):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        if not config.init_weights:
            return
        if config.residual:
            nn.init.zeros_(up.weight)
        elif config.reduction_factor <= 1:  # wide enough to let everything through
            _, scale, shift = NON_LINEARITIES[config.non_linearity]
            one = torch.eye(down.in_features, device=down.weight.device)
            nn.init.zeros_(up.weight)
            down.weight[: down.in_features] = one * scale
            up.weight[:, : down.in_features] = one / scale
            nn.init.constant_(down.bias, shift)
            nn.init.constant_(up.bias, -shift / scale)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(..., inputs) to (..., hidden)."""
        y = self.base_layer(x, *args, **kwargs)
        for name in [] if self.disable_adapters else self.active_adapters:
            if name in self.bottleneck_down:
                y = self._adapt(name, y)
        return y

    def _adapt(self, name: str, y: torch.Tensor) -> torch.Tensor:
        non_linearity, residual = self.bottleneck_form[name]
        down, up = self.bottleneck_down[name], self.bottleneck_up[name]
        cast = self._cast_input_dtype(y, down.weight.dtype)
        h = up(NON_LINEARITIES[non_linearity][0](down(self.bottleneck_dropout[name](cast))))
        return (cast + h if residual else h).to(y.dtype)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused with a ValueError."""
        raise ValueError(NO_MERGE)


class BottleneckModel(BaseTuner):
    """The base model with its sublayers' output layers wrapped in :class:`BottleneckLayer`."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 (as PEFT declares it)

    def _prepare_adapter_config(self, peft_config: BottleneckConfig, model_config: dict) -> BottleneckConfig:
        if peft_config.target_modules is None:
            peft_config.target_modules = output_modules(self.model, peft_config.placement)
        return peft_config

    def _create_and_replace(self, peft_config, adapter_name, target, target_name, parent, current_key) -> None:
        if isinstance(target, BottleneckLayer):
            return target.update_layer(adapter_name, peft_config)
        self._replace_module(parent, target_name, BottleneckLayer(target, adapter_name, peft_config), target)

    def _check_merge_allowed(self) -> None:
        raise ValueError(NO_MERGE)


def _register() -> None:
    """Make the type known to PEFT, whose enum of types is closed; again after a reload, with the new classes."""
    name = "BOTTLENECK"
    if name not in PeftType._member_map_:
        member = str.__new__(PeftType, name)
        member._name_ = member._value_ = name
        type.__setattr__(PeftType, name, member)
        PeftType._member_map_[name] = PeftType._value2member_map_[name] = member
        PeftType._member_names_.append(name)
    if getattr(mapping.PEFT_TYPE_TO_TUNER_MAPPING.get(name), "__module__", None) == __name__:
        del mapping.PEFT_TYPE_TO_CONFIG_MAPPING[name], mapping.PEFT_TYPE_TO_TUNER_MAPPING[name]
    register_peft_method(name="bottleneck", config_cls=BottleneckConfig, model_cls=BottleneckModel)


_register()
