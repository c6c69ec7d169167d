"""What of a model is trained: all of it, or a small adapter beside the frozen weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from studio.errors import StudioError
from studio.models.load import resolve_dtype
from studio.recipe import LoraMethod, Recipe


def training_dtype(recipe: Recipe, device: str) -> str:
    """The number format to load the base weights in.

    Full tuning takes float32 unless the recipe names a format: bfloat16 has 8 bits of precision, and most of AdamW's
    updates are smaller than half of its last digit and would be rounded away. Frozen weights may be coarse.
    """
    if recipe.model.dtype == "auto" and recipe.method.kind == "full":
        return "float32"
    return resolve_dtype(recipe.model.dtype, device)


def apply_method(model: Any, recipe: Recipe, new_token_ids: Iterable[int] = ()) -> Any:
    """Freeze and extend ``model`` for the recipe's method.

    Args:
        model: as :func:`studio.models.load.load_model` gives it, after ``prepare_chat``; changed in place.
        new_token_ids: rows of the embeddings that the base has never seen (``Notes.new_token_ids``); an adapter
            trains them too.

    Returns:
        The same model (full), or the PEFT model around it.

    Raises:
        StudioError: the recipe names modules that the model does not have.
    """
    if recipe.method.kind == "full":
        model.requires_grad_(True)
        return model
    assert isinstance(recipe.method, LoraMethod), f"no such method here: {recipe.method.kind}"
    from peft import LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training

    method = recipe.method
    check_target_modules(model, method.target_modules)
    if recipe.model.quantization != "none":
        # Checkpointing is the trainer's choice (train.gradient_checkpointing), not a must.
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=method.r,
        lora_alpha=method.lora_alpha,
        lora_dropout=method.lora_dropout,
        target_modules=method.target_modules,
        use_rslora=method.use_rslora,
        trainable_token_indices=_token_rows(model, list(new_token_ids)),
    )
    return get_peft_model(model, config)


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


def linear_layers(model: Any) -> list[str]:
    """Short names of the layers that can carry an adapter (``q_proj``, ``c_attn``), in the model's order."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    found = (n for n, m in model.named_modules() if isinstance(m, (torch.nn.Linear, Conv1D)) and m is not head)
    return list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in found))


def check_target_modules(model: Any, target_modules: str | list[str]) -> None:
    """Refuse names that match no layer of the model (PEFT matches whole names or the end of a dotted path).

    Raises:
        StudioError: with the names that there are.
    """
    if target_modules == "all-linear":
        return
    import re

    names = [name for name, _ in model.named_modules()]
    if isinstance(target_modules, str):  # one regular expression over the whole dotted name
        try:
            missing = [] if any(re.fullmatch(target_modules, name) for name in names) else [target_modules]
        except re.error as error:
            raise StudioError(
                f"method.target_modules {target_modules!r} is not a regular expression: {error}.",
                "Use all-linear, or a list of names.",
                field="method.target_modules",
            ) from error
    else:
        missing = [t for t in target_modules if not any(n == t or n.endswith(f".{t}") for n in names)]
    if missing:
        raise StudioError(
            f"The model has no module {', '.join(missing)}.",
            f"Use all-linear, or names from: {', '.join(linear_layers(model))}.",
            field="method.target_modules",
        )


def _token_rows(model: Any, new_ids: list[int]) -> dict[str, list[int]] | None:
    """PEFT's ``trainable_token_indices``: the input embeddings, and the output head where it has weights of its own."""
    if not new_ids:
        return None
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    tied = outputs is None or outputs.weight is inputs.weight
    layers = [inputs] if tied else [inputs, outputs]
    return {name.rsplit(".", 1)[-1]: new_ids for name, module in model.named_modules() if module in layers}
