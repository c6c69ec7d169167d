"""A method of the recipe as PEFT's configuration of an adapter, fitted to the layers that a model has."""

from __future__ import annotations

import re
from typing import Any

from studio.errors import StudioError
from studio.models.patterns import Patterns
from studio.recipe import Recipe
from studio.recipe.methods import AdaloraMethod, LoraMethod, Method

_KEYS_AND_VALUES = re.compile(r"(k|v)_proj|key|value|c_attn|query_key_value|qkv_proj|(k|v)_lin")


def adapter_config(model: Any, recipe: Recipe, new_tokens: list[int], steps: int) -> Any:
    """PEFT's configuration for the recipe's method.

    Args:
        model: the bare model, for the names of its layers.
        new_tokens: rows of the embeddings that have to be trained with the adapter.
        steps: optimizer steps of the whole run; AdaLoRA's schedule goes by them.

    Raises:
        StudioError: the method cannot train the new tokens, or the model has no layers for it.
    """
    from peft import TaskType

    method = recipe.method
    fields = method.model_dump(exclude={"kind"})
    common: dict[str, Any] = {
        "task_type": TaskType.SEQ_CLS if recipe.model.task == "seq_cls" else TaskType.CAUSAL_LM,
        **_targets(model, method, fields),
    }
    saved = [*fields.pop("modules_to_save", []), *getattr(model, "head_modules", [])]
    if new_tokens and isinstance(method, (LoraMethod, AdaloraMethod)):
        common["trainable_token_indices"] = token_rows(model, new_tokens)
    elif new_tokens:
        saved = [*saved, *embedding_names(model)]
    if saved:
        common["modules_to_save"] = list(dict.fromkeys(saved))
    return _BUILD[method.kind](model, method, fields, common, steps)


def _targets(model: Any, method: Method, fields: dict[str, Any]) -> dict[str, Any]:
    """Which layers, as PEFT takes it; the fields that say so are taken out."""
    wanted, layers = fields.pop("target_modules", None), fields.pop("layers_to_transform", None)
    if wanted is None or wanted == "auto":
        return {}
    check_target_modules(model, wanted)
    if not layers:
        return {"target_modules": wanted}
    count = len(blocks(model))
    if beyond := [n for n in layers if not 0 <= n < count]:
        raise StudioError(
            f"The model has {count} blocks, and method.layers_to_transform names {', '.join(map(str, beyond))}.",
            f"Use numbers from 0 to {count - 1}.",
            field="method.layers_to_transform",
        )
    return {
        "target_modules": linear_layers(model) if wanted == "all-linear" else wanted,
        "layers_to_transform": layers,
    }


def _lora(model: Any, method: LoraMethod, fields: dict, common: dict, steps: int) -> Any:
    from peft import EvaConfig, LoraConfig

    start = fields.pop("init_lora_weights")
    del fields["loraplus_lr_ratio"]  # the optimizer's
    if start == "eva":  # the ranks stay as they are: a resumed run has to find the same layers
        common["eva_config"] = EvaConfig(rho=1.0)
    # LoftQ replaces the weights of a plain start, once the quantised model is there
    return LoraConfig(init_lora_weights=True if start in ("default", "loftq") else start, **fields, **common)


def _adalora(model: Any, method: AdaloraMethod, fields: dict, common: dict, steps: int) -> Any:
    from peft import AdaLoraConfig

    first, last = int(steps * fields.pop("warmup_share")), int(steps * fields.pop("final_share"))
    if steps - last <= first:
        raise StudioError(
            f"{steps} steps are too few for AdaLoRA to prune in.",
            "Train for longer, or choose lora.",
            field="train.max_steps",
        )
    return AdaLoraConfig(r=fields["init_r"], tinit=first, tfinal=last, total_step=steps, **fields, **common)


def _ia3(model: Any, method: Any, fields: dict, common: dict, steps: int) -> Any:
    from peft import IA3Config

    from studio.models.bottleneck import output_modules

    ends = fields.pop("feedforward_modules")
    if "target_modules" not in common:
        outputs = output_modules(model, "pfeiffer")
        if isinstance(outputs, str):  # a pattern, where a name alone would match too much
            outputs = [name for name, _ in model.named_modules() if re.fullmatch(outputs, name)]
        named = [name for name in linear_layers(model) if _KEYS_AND_VALUES.fullmatch(name)]
        common["target_modules"], ends = [*named, *outputs], ends or outputs
    targets = common["target_modules"]
    ends = ends or [t for t in targets if isinstance(targets, list) and t in ("down_proj", "fc2", "mlp.c_proj")]
    return IA3Config(feedforward_modules=ends, **fields, **common)


def _prompt_tuning(model: Any, method: Any, fields: dict, common: dict, steps: int) -> Any:
    from peft import PromptTuningConfig

    return PromptTuningConfig(num_virtual_tokens=method.num_virtual_tokens, **common)  # a text comes in afterwards


def _p_tuning(model: Any, method: Any, fields: dict, common: dict, steps: int) -> Any:
    from peft import PromptEncoderConfig

    return PromptEncoderConfig(**fields, **common)


def _prefix_tuning(model: Any, method: Any, fields: dict, common: dict, steps: int) -> Any:
    from peft import PrefixTuningConfig

    if not fields["prefix_projection"]:
        del fields["encoder_hidden_size"]
    return PrefixTuningConfig(**fields, **common)


def _ln_tuning(model: Any, method: Any, fields: dict, common: dict, steps: int) -> Any:
    from peft import LNTuningConfig

    norms = [name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()]
    names = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in norms))
    if not names:
        raise StudioError("The model has no layer norms to train.", "Choose another method.", field="method.kind")
    return LNTuningConfig(target_modules=names, **fields, **common)


def _bottleneck(model: Any, method: Any, fields: dict, common: dict, steps: int) -> Any:
    from studio.models.bottleneck import BottleneckConfig, output_modules

    return BottleneckConfig(target_modules=output_modules(model, method.placement), **fields, **common)


def _named(name: str) -> Any:
    """A builder for a configuration whose fields have the recipe's names."""

    def build(model: Any, method: Any, fields: dict, common: dict, steps: int) -> Any:
        import peft

        return getattr(peft, name)(**fields, **common)

    return build


_BUILD = {
    "lora": _lora,
    "adalora": _adalora,
    "ia3": _ia3,
    "prompt_tuning": _prompt_tuning,
    "p_tuning": _p_tuning,
    "prefix_tuning": _prefix_tuning,
    "loha": _named("LoHaConfig"),
    "lokr": _named("LoKrConfig"),
    "oft": _named("OFTConfig"),
    "boft": _named("BOFTConfig"),
    "vera": _named("VeraConfig"),
    "hra": _named("HRAConfig"),
    "ln_tuning": _ln_tuning,
    "bottleneck": _bottleneck,
}


def blocks(model: Any) -> Any:
    """The model's blocks (``model.layers``, ``transformer.h``), its longest list of modules.

    Raises:
        StudioError: it has none.
    """
    from torch.nn import ModuleList

    lists = [module for module in model.modules() if isinstance(module, ModuleList)]
    if not lists:
        raise StudioError("The model has no list of blocks.", "Name modules instead.", field="method.kind")
    return max(lists, key=len)


def linear_layers(model: Any) -> list[str]:
    """Short names of the layers that can carry an adapter (``q_proj``, ``c_attn``), in the model's order."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    new = tuple(getattr(model, "head_modules", ()))
    found = (
        n
        for n, m in model.named_modules()
        if isinstance(m, (torch.nn.Linear, Conv1D)) and m is not head and not f"{n}.".startswith(_dotted(new))
    )
    return list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in found))


def _dotted(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{name}." for name in names)


def check_target_modules(model: Any, target_modules: str | list[str]) -> None:
    """Refuse names that match no layer of the model (PEFT matches whole names or the end of a dotted path).

    Raises:
        StudioError: with the names that there are.
    """
    if target_modules == "all-linear":
        return
    names = [name for name, _ in model.named_modules()]
    if isinstance(target_modules, str):  # one regular expression over the whole dotted name
        patterns = Patterns()
        found = [name for name in names if patterns.fits(target_modules, name, "target_modules")]
        missing = [] if found else [target_modules]
    else:
        missing = [t for t in target_modules if not any(n == t or n.endswith(f".{t}") for n in names)]
    if missing:
        raise StudioError(
            f"The model has no module {', '.join(missing)}.",
            f"Use all-linear, or names from: {', '.join(linear_layers(model))}.",
            field="method.target_modules",
        )


def embedding_names(model: Any) -> list[str]:
    """Names of the input embeddings, and of the output head where it has weights of its own."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    tied = outputs is None or outputs.weight is inputs.weight
    layers = [inputs] if tied else [inputs, outputs]
    return [name.rsplit(".", 1)[-1] for name, module in model.named_modules() if module in layers]


def token_rows(model: Any, new_ids: list[int]) -> dict[str, list[int]]:
    """PEFT's ``trainable_token_indices``."""
    return {name: new_ids for name in embedding_names(model)}
