"""The ways to tune a model, as parts of a recipe: each with its own fields, and in two sentences what it does."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from studio.recipe.settings import Section, setting

_ALL_LINEAR = "Which layers get an adapter: all-linear, a list of module names, or a regular expression."
_SAVED = "Layers that are trained and saved whole beside the adapter, for example lm_head."
_LAYERS = "Adapt only the blocks with these numbers, counted from 0; empty means all."
_USUAL_FACTORS = (50, 10)  # below and above the suggested learning rate


def _one_digit(value: float) -> float:
    return float(f"{value:.1g}")


class Method(Section):
    """Base of all methods.

    ``title`` is what a person calls it, ``suggested`` the learning rate to start from, and ``merges`` says whether the
    result can be folded into the base weights. :meth:`usual_rates` is the range around the suggestion.
    """

    title: ClassVar[str] = ""
    suggested: ClassVar[float] = 1e-3
    merges: ClassVar[bool] = True

    @classmethod
    def usual_rates(cls) -> tuple[float, float]:
        """The lowest and the highest learning rate that usually train with this method (AdamW)."""
        return _one_digit(cls.suggested / _USUAL_FACTORS[0]), min(1.0, _one_digit(cls.suggested * _USUAL_FACTORS[1]))


class _Targeted(Method):
    """A method that adapts layers of the model."""

    target_modules: str | list[str] = setting("all-linear", _ALL_LINEAR, advanced=True)
    modules_to_save: list[str] = setting([], _SAVED, advanced=True)
    layers_to_transform: list[int] = setting([], _LAYERS, advanced=True)


class _Prompted(Method):
    """A method that puts trained vectors before the text; the model itself stays as it is."""

    merges: ClassVar[bool] = False
    num_virtual_tokens: int = setting(
        20, "How many trained vectors stand before the text; each takes one place of the context.", ge=1, le=1024
    )


class FullMethod(Method):
    """Train every weight: the most capacity, and the most memory (four numbers per weight with AdamW)."""

    title: ClassVar[str] = "Full fine-tuning"
    suggested: ClassVar[float] = 5e-5
    kind: Literal["full"] = setting("full", "How the model is tuned.")


class FreezeMethod(Method):
    """Train some layers as they are and freeze the rest. Cheaper than full tuning, and nothing is added."""

    title: ClassVar[str] = "Freeze"
    suggested: ClassVar[float] = 2e-4
    kind: Literal["freeze"] = setting("freeze", "How the model is tuned.")
    num_trainable_layers: int = setting(
        2, "How many of the last blocks are trained; 0 trains only what trainable_modules names.", ge=0, le=1000
    )
    trainable_modules: list[str] = setting(
        [], "More modules to train, by name: norm, lm_head, embed_tokens, or a dotted path.", advanced=True
    )


class LoraMethod(_Targeted):
    """Train two small matrices beside each frozen linear layer: little memory, and the base stays untouched."""

    title: ClassVar[str] = "LoRA"
    kind: Literal["lora"] = setting("lora", "How the model is tuned.", link="https://arxiv.org/abs/2106.09685")
    r: int = setting(16, "Rank of the added matrices: higher learns more and costs more memory.", ge=1, le=1024)
    lora_alpha: float = setting(
        32, "Scale of the added matrices; their output is multiplied by lora_alpha / r.", gt=0, le=4096
    )
    use_dora: bool = setting(
        False,
        "DoRA: learn the length of each weight column apart from its direction; closer to full tuning, slower.",
        link="https://arxiv.org/abs/2402.09353",
    )
    lora_dropout: float = setting(
        0.0, "Share of the adapter's inputs dropped at random while training.", ge=0, lt=1, advanced=True
    )
    use_rslora: bool = setting(
        False,
        "Divide by the square root of r instead of r, which keeps high ranks stable.",
        advanced=True,
        link="https://arxiv.org/abs/2312.03732",
    )
    init_lora_weights: Literal["default", "gaussian", "orthogonal", "pissa", "olora", "eva", "loftq"] = setting(
        "default",
        "Where the matrices start: default adds nothing at first; [pissa](https://arxiv.org/abs/2404.02948) and "
        "[olora](https://arxiv.org/abs/2406.01775) take the main directions of the weights, "
        "[eva](https://arxiv.org/abs/2410.07170) those of the data, and "
        "[loftq](https://arxiv.org/abs/2310.08659) makes up for quantisation.",
        advanced=True,
    )
    loraplus_lr_ratio: float = setting(
        0,
        "LoRA+: how much faster the second matrix learns than the first, for example 16; 0 turns it off.",
        ge=0,
        le=1000,
        advanced=True,
        link="https://arxiv.org/abs/2402.12354",
    )
    rank_pattern: dict[str, int] = setting({}, "Other ranks for some layers: {name or pattern: rank}.", advanced=True)
    alpha_pattern: dict[str, float] = setting(
        {}, "Other lora_alpha for some layers: {name or pattern: alpha}.", advanced=True
    )


class AdaloraMethod(_Targeted):
    """LoRA that moves rank to where it helps: it starts with more than is wanted and prunes the least important parts
    step by step."""

    title: ClassVar[str] = "AdaLoRA"
    suggested: ClassVar[float] = 3e-3
    kind: Literal["adalora"] = setting("adalora", "How the model is tuned.", link="https://arxiv.org/abs/2303.10512")
    init_r: int = setting(12, "Rank of every layer at the start.", ge=1, le=1024)
    target_r: int = setting(8, "Average rank that is left at the end.", ge=1, le=1024)
    lora_alpha: float = setting(32, "Scale of the added matrices.", gt=0, le=4096)
    lora_dropout: float = setting(
        0.0, "Share of the adapter's inputs dropped at random while training.", ge=0, lt=1, advanced=True
    )
    warmup_share: float = setting(0.1, "Share of the steps before pruning begins (tinit).", ge=0, lt=1, advanced=True)
    final_share: float = setting(
        0.3, "Share of the steps at the end in which the ranks stay as they are (tfinal).", ge=0, lt=1, advanced=True
    )
    deltaT: int = setting(1, "Prune every N steps.", unit="steps", ge=1, advanced=True)
    orth_reg_weight: float = setting(
        0.5, "Weight of the penalty that keeps the directions of a layer apart.", ge=0, le=100, advanced=True, step=0.1
    )


class Ia3Method(_Targeted):
    """Train one factor for each output of keys and values and each input of the last feed-forward layer. The fewest
    numbers of all adapters, so it needs a high learning rate."""

    title: ClassVar[str] = "IA3"
    suggested: ClassVar[float] = 3e-2
    kind: Literal["ia3"] = setting("ia3", "How the model is tuned.", link="https://arxiv.org/abs/2205.05638")
    target_modules: str | list[str] = setting(
        "auto",
        "Which layers get factors: auto takes keys, values and the last feed-forward layer of each block.",
        advanced=True,
    )
    feedforward_modules: list[str] = setting(
        [],
        "Which of them have their inputs scaled instead of their outputs; empty takes the feed-forward ones.",
        advanced=True,
    )


class PromptTuningMethod(_Prompted):
    """Train a few made-up tokens that stand before every text. Nearly nothing to store; best on large models."""

    title: ClassVar[str] = "Prompt tuning"
    suggested: ClassVar[float] = 3e-1
    kind: Literal["prompt_tuning"] = setting(
        "prompt_tuning", "How the model is tuned.", link="https://arxiv.org/abs/2104.08691"
    )
    prompt_tuning_init: Literal["random", "text"] = setting(
        "random", "Where the vectors start: at random, or at the embeddings of a text."
    )
    prompt_tuning_init_text: str = setting(
        "", "The text to start from, for example what the model should do.", max_length=10_000
    )


class PTuningMethod(_Prompted):
    """Prompt tuning whose vectors come out of a small network that is trained, which makes them easier to find."""

    title: ClassVar[str] = "P-tuning"
    suggested: ClassVar[float] = 3e-3
    kind: Literal["p_tuning"] = setting("p_tuning", "How the model is tuned.", link="https://arxiv.org/abs/2103.10385")
    encoder_hidden_size: int = setting(128, "Width of the network that makes the vectors.", ge=1, le=65_536)
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = setting("MLP", "Kind of that network.", advanced=True)
    encoder_num_layers: int = setting(2, "Layers of that network, if it is an LSTM.", ge=1, le=16, advanced=True)
    encoder_dropout: float = setting(0.0, "Dropout in that network, if it is an LSTM.", ge=0, lt=1, advanced=True)


class PrefixTuningMethod(_Prompted):
    """Train keys and values that every attention layer sees before the text. More to learn with than prompt tuning."""

    title: ClassVar[str] = "Prefix tuning"
    suggested: ClassVar[float] = 1e-2
    kind: Literal["prefix_tuning"] = setting(
        "prefix_tuning", "How the model is tuned.", link="https://arxiv.org/abs/2101.00190"
    )
    prefix_projection: bool = setting(
        False,
        "Let a small network make the keys and values: steadier, with many more numbers.",
        advanced=True,
    )
    encoder_hidden_size: int = setting(128, "Width of that network.", ge=1, le=65_536, advanced=True)


class LohaMethod(_Targeted):
    """The change of each weight is the product, number by number, of two low-rank matrices: a higher rank for the same
    number of parameters."""

    title: ClassVar[str] = "LoHa"
    suggested: ClassVar[float] = 4e-3
    kind: Literal["loha"] = setting("loha", "How the model is tuned.", link="https://arxiv.org/abs/2108.06098")
    r: int = setting(8, "Rank of each of the two matrices.", ge=1, le=1024)
    alpha: float = setting(16, "Scale of the change; it is multiplied by alpha / r.", gt=0, le=4096)
    module_dropout: float = setting(0.0, "Share of the layers left out of a step.", ge=0, lt=1, advanced=True)


class LokrMethod(_Targeted):
    """The change of each weight is a Kronecker product of a small and a low-rank matrix: very few parameters."""

    title: ClassVar[str] = "LoKr"
    suggested: ClassVar[float] = 1e-2
    kind: Literal["lokr"] = setting("lokr", "How the model is tuned.", link="https://arxiv.org/abs/2309.14859")
    r: int = setting(16, "Rank of the second matrix.", ge=1, le=1024)
    alpha: float = setting(16, "Scale of the change; it is multiplied by alpha / r.", gt=0, le=4096)
    decompose_factor: int = setting(
        -1, "Size of the first matrix; -1 splits each weight about in the middle.", ge=-1, le=4096, advanced=True
    )
    decompose_both: bool = setting(False, "Give the first matrix a low rank, too.", advanced=True)
    module_dropout: float = setting(0.0, "Share of the layers left out of a step.", ge=0, lt=1, advanced=True)


class OftMethod(_Targeted):
    """Rotate the inputs of each layer in small blocks. The angles between the weights stay, and with them much of what
    the model knows."""

    title: ClassVar[str] = "OFT"
    suggested: ClassVar[float] = 2e-3
    kind: Literal["oft"] = setting("oft", "How the model is tuned.", link="https://arxiv.org/abs/2306.07280")
    oft_block_size: int = setting(
        32, "Size of the rotated blocks; it has to divide the inputs of every layer.", ge=2, le=4096
    )
    module_dropout: float = setting(0.0, "Share of the layers left out of a step.", ge=0, lt=1, advanced=True)
    coft: bool = setting(False, "Keep every rotation small (constrained OFT).", advanced=True)


class BoftMethod(_Targeted):
    """OFT as a product of sparse rotations in the pattern of a butterfly: the same reach with fewer numbers."""

    title: ClassVar[str] = "BOFT"
    suggested: ClassVar[float] = 5e-3
    kind: Literal["boft"] = setting("boft", "How the model is tuned.", link="https://arxiv.org/abs/2311.06243")
    boft_block_size: int = setting(
        8, "Size of the rotated blocks; it has to divide the inputs of every layer.", ge=2, le=4096
    )
    boft_n_butterfly_factor: int = setting(
        1, "How many sparse rotations follow each other; more than 1 needs a GPU and ninja.", ge=1, le=8
    )
    boft_dropout: float = setting(0.0, "Share of the rotations left out of a step.", ge=0, lt=1, advanced=True)


class VeraMethod(_Targeted):
    """LoRA with two random matrices that all layers share and that stay as they are; only two vectors a layer are
    trained."""

    title: ClassVar[str] = "VeRA"
    suggested: ClassVar[float] = 2e-2
    kind: Literal["vera"] = setting("vera", "How the model is tuned.", link="https://arxiv.org/abs/2310.11454")
    r: int = setting(256, "Rank of the shared matrices.", ge=1, le=4096)
    d_initial: float = setting(0.1, "Where the first vector of each layer starts.", advanced=True, step=0.01)
    vera_dropout: float = setting(0.0, "Share of the inputs dropped at random.", ge=0, lt=1, advanced=True)
    projection_prng_key: int = setting(0, "Seed of the shared matrices.", ge=0, advanced=True)


class HraMethod(_Targeted):
    """Multiply each weight with a few reflections (Householder): between LoRA and OFT, and the change keeps lengths."""

    title: ClassVar[str] = "HRA"
    suggested: ClassVar[float] = 3e-3
    kind: Literal["hra"] = setting("hra", "How the model is tuned.", link="https://arxiv.org/abs/2405.17484")
    r: int = setting(8, "How many reflections a layer has, an even number.", ge=2, le=1024, multiple_of=2)


class LnTuningMethod(Method):
    """Train the layer norms alone: a few thousandths of the model, and nothing is added."""

    title: ClassVar[str] = "LN-tuning"
    suggested: ClassVar[float] = 1e-2
    kind: Literal["ln_tuning"] = setting(
        "ln_tuning", "How the model is tuned.", link="https://arxiv.org/abs/2312.11420"
    )
    modules_to_save: list[str] = setting([], _SAVED, advanced=True)


class BottleneckMethod(Method):
    """Put a small network (down, non-linearity, up) behind the layers of each block: the classic adapter. It reads what
    the block made, so it can learn more than a change of weights, and it cannot be merged."""

    title: ClassVar[str] = "Bottleneck adapters"
    merges: ClassVar[bool] = False
    kind: Literal["bottleneck"] = setting(
        "bottleneck", "How the model is tuned.", link="https://arxiv.org/abs/1902.00751"
    )
    placement: Literal["houlsby", "pfeiffer"] = setting(
        "houlsby",
        "Where it stands: houlsby, behind attention and feed-forward of each block; "
        "[pfeiffer](https://arxiv.org/abs/2005.00247), behind the feed-forward part alone.",
    )
    reduction_factor: float = setting(
        8, "How much narrower than the model the network is; smaller learns more and costs more.", ge=1, le=4096
    )
    non_linearity: Literal["relu", "gelu", "silu", "tanh", "identity"] = setting(
        "relu", "The function between the two layers.", advanced=True
    )
    residual: bool = setting(True, "Add the result to what the block made, instead of replacing it.", advanced=True)
    dropout: float = setting(0.0, "Share of the inputs dropped at random while training.", ge=0, lt=1, advanced=True)
    modules_to_save: list[str] = setting([], _SAVED, advanced=True)


AnyMethod = Annotated[
    FullMethod
    | FreezeMethod
    | LoraMethod
    | AdaloraMethod
    | Ia3Method
    | PromptTuningMethod
    | PTuningMethod
    | PrefixTuningMethod
    | LohaMethod
    | LokrMethod
    | OftMethod
    | BoftMethod
    | VeraMethod
    | HraMethod
    | LnTuningMethod
    | BottleneckMethod,
    Field(discriminator="kind"),
]
METHODS: dict[str, type[Method]] = {
    get_args(m.model_fields["kind"].annotation)[0]: m for m in get_args(get_args(AnyMethod)[0])
}
WHOLE = ("full", "freeze")
"""Methods that train weights of the model itself; all others leave it as it is and train an adapter."""
PROMPTED = ("prompt_tuning", "p_tuning", "prefix_tuning")
"""Methods that put trained vectors before the text."""
TAKEN_STARTS = ("pissa", "olora")
"""``init_lora_weights`` that take directions out of the base's weights, which then is no base any more."""
