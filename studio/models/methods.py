"""What of a model is trained: all of it, some layers, or a small adapter beside the frozen weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.models.adapters import adapter_config, blocks, check_target_modules, embedding_names, linear_layers
from studio.models.load import resolve_dtype
from studio.recipe import Recipe
from studio.recipe.methods import METHODS, PROMPTED, TAKEN_STARTS, WHOLE

__all__ = ["apply_method", "check_target_modules", "count_parameters", "linear_layers", "training_dtype"]


def training_dtype(recipe: Recipe, device: str) -> str:
    """The number format to load the base weights in.

    Tuning of the weights themselves takes float32 unless the recipe names a format: bfloat16 has 8 bits of precision,
    and most of AdamW's updates are smaller than half of its last digit and would be rounded away. Frozen weights may
    be coarse.
    """
    if recipe.model.dtype == "auto" and recipe.method.kind in WHOLE:
        return "float32"
    return resolve_dtype(recipe.model.dtype, device)


def apply_method(
    model: Any,
    recipe: Recipe,
    new_token_ids: Iterable[int] = (),
    *,
    steps: int = 1000,
    folder: Path | None = None,
    tokenizer: Any = None,
) -> Any:
    """Freeze and extend ``model`` for the recipe's method.

    Args:
        model: as :func:`studio.models.load.load_model` gives it, after ``prepare_chat``; changed in place.
        new_token_ids: rows of the embeddings that the base has never seen (``Notes.new_token_ids``); an adapter
            trains them too.
        steps: optimizer steps of the whole run, for AdaLoRA's schedule.
        folder: the base's files, which LoftQ reads.
        tokenizer: for prompt tuning that starts from a text.

    Returns:
        The same model (full, freeze), or the PEFT model around it.

    Raises:
        StudioError: the recipe names modules that the model does not have, or the method does not fit its layers.
    """
    method, new = recipe.method, list(new_token_ids)
    if method.kind == "full":
        model.requires_grad_(True)
        return model
    if method.kind == "freeze":
        return _freeze(model, recipe, new)
    from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training

    from studio.models.efficient_hra_boft import turn_inputs

    title = METHODS[method.kind].title
    if new and method.kind in PROMPTED:
        raise StudioError(
            f"The chat template needs tokens that this model has never seen, and {title} cannot teach them.",
            "Choose lora, or a template of tokens that the model knows (data.chat_template plain).",
            field="method.kind",
        )
    if new and getattr(method, "init_lora_weights", "") in TAKEN_STARTS:
        raise StudioError(
            f"The chat template needs tokens that are new to this model; {method.init_lora_weights} would lose them.",
            "Set method.init_lora_weights to default.",
            field="method.init_lora_weights",
        )
    if recipe.model.quantization != "none":
        # Checkpointing is the trainer's choice (train.gradient_checkpointing), not a must.
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if recipe.model.adapter:
        from studio.models.initial_adapter import adapter_folder, reading
        from studio.models.weight_check import check_adapter

        earlier = adapter_folder(recipe)
        with reading(earlier):
            made = PeftModel.from_pretrained(model, earlier, is_trainable=True)
            check_adapter(made, earlier)
        turn_inputs(made)
        return made
    try:
        made = get_peft_model(model, adapter_config(model, recipe, new, steps))
    except (ValueError, TypeError, AttributeError, KeyError, NotImplementedError) as error:
        raise StudioError(
            f"{title} does not fit this model: {str(error).strip().splitlines()[0][:300]}",
            "Choose other settings of the method, other target_modules, or lora.",
            field="method.kind",
        ) from error
    if getattr(method, "init_lora_weights", "") == "loftq":
        _start_loftq(made, folder)
    if getattr(method, "prompt_tuning_init", "") == "text":
        _start_from_text(made, tokenizer, method.prompt_tuning_init_text)
    turn_inputs(made)
    return made


def _freeze(model: Any, recipe: Recipe, new_tokens: list[int]) -> Any:
    """Train the last blocks and the named modules; rows of new tokens take the embeddings along."""
    method = recipe.method
    every, count = blocks(model), method.num_trainable_layers
    if count > len(every):
        raise StudioError(
            f"The model has {len(every)} blocks, and method.num_trainable_layers is {count}.",
            f"Choose at most {len(every)}.",
            field="method.num_trainable_layers",
        )
    names = [*method.trainable_modules, *(embedding_names(model) if new_tokens else [])]
    names += getattr(model, "head_modules", [])
    known = dict(model.named_modules())
    chosen = [module for name, module in known.items() if any(name == n or name.endswith(f".{n}") for n in names)]
    missing = [n for n in names if not any(name == n or name.endswith(f".{n}") for name in known)]
    if missing:
        raise StudioError(
            f"The model has no module {', '.join(missing)}.",
            "Name modules such as norm, lm_head or embed_tokens, or a dotted path.",
            field="method.trainable_modules",
        )
    model.requires_grad_(False)
    for module in [*list(every)[len(every) - count :], *chosen]:
        module.requires_grad_(True)
    return model


def _start_loftq(model: Any, folder: Path | None) -> None:
    """Let the adapter start at what quantisation took away (https://arxiv.org/abs/2310.08659)."""
    from peft import replace_lora_weights_loftq

    if model.device.type != "cuda":
        raise StudioError(
            "LoftQ needs a CUDA GPU for its start.",
            "Choose another method.init_lora_weights.",
            field="method.init_lora_weights",
        )
    file = folder / "model.safetensors" if folder else None
    if file is None or not file.exists():
        raise StudioError(
            "LoftQ reads the unquantised weights from one model.safetensors, and this model has none.",
            "Choose another method.init_lora_weights.",
            field="method.init_lora_weights",
        )
    replace_lora_weights_loftq(model, model_path=str(file))


def _start_from_text(model: Any, tokenizer: Any, text: str) -> None:
    """Put a text's embeddings, repeated or cut to size, where the trained vectors start, as PEFT does it."""
    import torch

    (encoder,) = model.prompt_encoder.values()
    weight = encoder.embedding.weight
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = (ids * (len(weight) // len(ids) + 1))[: len(weight)]
    with torch.no_grad():
        weight.copy_(model.get_input_embeddings().weight[ids])


def count_parameters(model: Any) -> tuple[int, int]:
    """(trainable, total) numbers in a model, tied weights once, 4-bit weights unpacked."""
    trainable = total = 0
    for parameter in model.parameters():
        count = parameter.numel()
        if count == 0 and hasattr(parameter, "ds_numel"):
            count = parameter.ds_numel
        if type(parameter).__name__ == "Params4bit":  # two numbers in a byte
            count *= 2 * parameter.element_size()
        total += count
        trainable += count if parameter.requires_grad else 0
    return trainable, total
