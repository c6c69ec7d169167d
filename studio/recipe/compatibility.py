"""What of a recipe does not go together, and why: each refused before anything is loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

from studio.errors import StudioError
from studio.recipe.methods import METHODS, PROMPTED, TAKEN_STARTS, WHOLE

if TYPE_CHECKING:
    from studio.recipe import Recipe

_QUANTISED = ("lora", "adalora", "ia3", "vera", "oft", "bottleneck", "ln_tuning", *PROMPTED)
_PROJECTIONS = {"galore_adamw": "galore_torch", "apollo_adamw": "apollo_torch"}


def combinations(recipe: Recipe) -> list[StudioError]:
    """Everything in a recipe that does not go together."""
    return [*_method(recipe), *_training(recipe), *_data(recipe)]


def _method(recipe: Recipe) -> Iterator[StudioError]:
    method, kind, quantization = recipe.method, recipe.method.kind, recipe.model.quantization
    if quantization != "none" and kind in WHOLE:
        yield StudioError(
            f"Quantised weights ({quantization}) cannot be trained themselves ({METHODS[kind].title}).",
            "Choose method.kind lora, or model.quantization none.",
            field="model.quantization",
        )
    elif quantization != "none" and kind not in _QUANTISED:
        yield StudioError(
            f"{METHODS[kind].title} changes the weights themselves, and quantised weights ({quantization}) cannot be.",
            f"Set model.quantization to none, or choose a method from: {', '.join(_QUANTISED)}.",
            field="model.quantization",
        )
    if getattr(method, "target_modules", None) in ("", []):
        yield StudioError(
            "method.target_modules is empty.", "Name modules, or use all-linear.", field="method.target_modules"
        )
    pattern = isinstance(getattr(method, "target_modules", None), str) and method.target_modules != "all-linear"
    if pattern and method.layers_to_transform:
        yield StudioError(
            "method.layers_to_transform cannot be used with a regular expression in method.target_modules.",
            "Put the numbers of the layers into the expression, or name the modules in a list.",
            field="method.layers_to_transform",
        )
    if kind == "lora":
        yield from _lora(recipe)
    if kind == "freeze" and not method.num_trainable_layers and not method.trainable_modules:
        yield StudioError(
            "Nothing would be trained: method.num_trainable_layers is 0 and no module is named.",
            "Train at least one layer, or name modules in method.trainable_modules.",
            field="method.num_trainable_layers",
        )
    if kind == "adalora" and method.target_r > method.init_r:
        yield StudioError(
            f"AdaLoRA prunes ranks, and method.target_r ({method.target_r}) is larger than init_r ({method.init_r}).",
            "Choose target_r below init_r.",
            field="method.target_r",
        )
    if kind == "adalora" and method.warmup_share + method.final_share >= 1:
        yield StudioError(
            "No step is left for AdaLoRA's pruning: method.warmup_share and final_share make up the whole run.",
            "Lower one of them.",
            field="method.final_share",
        )
    if kind == "prompt_tuning" and method.prompt_tuning_init == "text" and not method.prompt_tuning_init_text.strip():
        yield StudioError(
            "method.prompt_tuning_init is text, and there is no text to start from.",
            "Write it into method.prompt_tuning_init_text, or start at random.",
            field="method.prompt_tuning_init_text",
        )
    if kind == "prefix_tuning" and recipe.train.gradient_checkpointing:
        yield StudioError(
            "Prefix tuning puts its vectors into the cache, which gradient checkpointing does without.",
            "Turn train.gradient_checkpointing off, or choose prompt_tuning.",
            field="train.gradient_checkpointing",
        )


def _lora(recipe: Recipe) -> Iterator[StudioError]:
    method, quantization = recipe.method, recipe.model.quantization
    start = method.init_lora_weights
    if start == "loftq" and quantization not in ("nf4", "fp4"):
        yield StudioError(
            "init_lora_weights loftq makes up for 4-bit quantisation, and the base is not quantised so.",
            "Set model.quantization to nf4, or choose another start.",
            field="method.init_lora_weights",
        )
    if start in TAKEN_STARTS and quantization != "none":
        yield StudioError(
            f"init_lora_weights {start} takes directions out of the weights, and quantised weights cannot give them.",
            "Set model.quantization to none, or use loftq.",
            field="method.init_lora_weights",
        )
    if start in TAKEN_STARTS and method.use_dora:
        yield StudioError(
            f"DoRA and init_lora_weights {start} both change what the base weight is.",
            "Use one of the two.",
            field="method.use_dora",
        )
    if start in TAKEN_STARTS and recipe.model.adapter:
        yield StudioError(
            f"An adapter that continues an earlier one is not initialised again ({start}).",
            "Set method.init_lora_weights to default, or model.adapter to nothing.",
            field="method.init_lora_weights",
        )
    if start in TAKEN_STARTS and recipe.model.task == "seq_cls":
        yield StudioError(
            f"An adapter that starts with init_lora_weights {start} is saved without whole layers, and a classifier "
            "has a new head.",
            "Set method.init_lora_weights to default or eva.",
            field="method.init_lora_weights",
        )
    if start in TAKEN_STARTS and method.modules_to_save:
        yield StudioError(
            f"An adapter that starts as {start} is rewritten when it is saved, and layers saved whole would be lost.",
            "Empty method.modules_to_save, or choose another start.",
            field="method.modules_to_save",
        )
    if method.use_dora and quantization == "int8":
        yield StudioError(
            "DoRA needs the length of each weight column, which 8-bit weights do not give exactly.",
            "Set model.quantization to nf4 or none, or method.use_dora to false.",
            field="method.use_dora",
        )


def _training(recipe: Recipe) -> Iterator[StudioError]:
    train = recipe.train
    if train.max_steps == 0:
        yield StudioError("train.max_steps is 0.", "Use -1 for all epochs, or at least 1.", field="train.max_steps")
    if recipe.model.dtype == "float16" and train.device == "cpu":
        yield StudioError(
            "float16 cannot be trained on a CPU.", "Use dtype auto, bfloat16 or float32.", field="model.dtype"
        )
    if package := _PROJECTIONS.get(train.optim):
        if recipe.method.kind != "full":
            yield StudioError(
                f"train.optim {train.optim} shrinks the gradients of full tuning; an adapter's are small already.",
                "Choose adamw_torch, or method.kind full.",
                field="train.optim",
            )
        if importlib.util.find_spec(package) is None:
            yield StudioError(
                f"train.optim {train.optim} needs the package {package.replace('_', '-')}, which is not installed.",
                f"pip install {package.replace('_', '-')}, or choose another optimizer.",
                field="train.optim",
            )
    if train.report_to != "none" and importlib.util.find_spec(train.report_to) is None:
        yield StudioError(
            f"train.report_to {train.report_to} needs the package {train.report_to}, which is not installed.",
            f"pip install {train.report_to}, or set train.report_to to none.",
            field="train.report_to",
        )
    if train.packing and recipe.method.kind in PROMPTED:
        yield StudioError(
            f"train.packing puts several rows into one, and {METHODS[recipe.method.kind].title} would put its vectors "
            "before the first of them only.",
            "Turn train.packing off, or choose another method.",
            field="train.packing",
        )
    if train.packing and recipe.model.task == "seq_cls":
        yield StudioError(
            "train.packing puts several texts into one row, and a classifier gives one answer for each row.",
            "Turn train.packing off.",
            field="train.packing",
        )
    if train.packing and train.neftune_noise_alpha:
        yield StudioError(
            "NEFTune's noise is scaled by the length of a row, which is not that of its examples with train.packing.",
            "Turn one of the two off.",
            field="train.packing",
        )
    if train.padding_free == "on" and (why := no_padding_free(recipe)):
        yield StudioError(why, "Set train.padding_free to auto or off.", field="train.padding_free")
    if train.sample_prompts and recipe.model.task == "seq_cls":
        yield StudioError(
            "train.sample_prompts are answered with text, and a classifier writes none.",
            "Empty it.",
            field="train.sample_prompts",
        )
    if recipe.model.adapter and recipe.method.kind in PROMPTED:
        yield StudioError(
            f"{METHODS[recipe.method.kind].title}cannot continue from an adapter: only its finished vectors are kept.",
            "Train anew, or resume the run itself.",
            field="model.adapter",
        )
    if recipe.model.adapter and recipe.method.kind in WHOLE:
        yield StudioError(
            "model.adapter names an adapter to continue from, and this method trains none.",
            "Choose the adapter's own method, or merge it and take the merged model as the base.",
            field="model.adapter",
        )
    yield from _several_processes(recipe)
    data = recipe.data
    if data.split_turns and data.train_on == "all":
        yield StudioError(
            "data.split_turns makes one example per reply, and data.train_on all takes the loss on every token.",
            "Set data.train_on to assistant, or turn data.split_turns off.",
            field="data.split_turns",
        )
    measured = data.holdout or data.holdout_rows or data.holdout_column or data.holdout_source
    for name in ("early_stopping_patience", "keep_best"):
        if getattr(train, name) and not measured:
            yield StudioError(
                f"train.{name} goes by the validation loss, and no rows are held out to measure it.",
                "Set data.holdout, or turn it off.",
                field=f"train.{name}",
            )


def _several_processes(recipe: Recipe) -> Iterator[StudioError]:
    kind, field = recipe.train.distributed, "train.distributed"
    if kind == "ddp":
        return
    if recipe.train.num_processes == 1:
        yield StudioError(
            f"train.distributed {kind} spreads a model over several processes, and there is one.",
            "Raise train.num_processes, or set train.distributed to ddp.",
            field=field,
        )
    if recipe.train.device == "cpu":
        yield StudioError(
            f"train.distributed {kind} needs GPUs.", "Set it to ddp, or train.device to auto.", field=field
        )
    if recipe.model.quantization != "none" or recipe.method.kind not in ("full", "lora"):
        yield StudioError(
            f"train.distributed {kind} goes with full tuning and LoRA on weights that are not quantised.",
            "Set it to ddp, or change the method or model.quantization.",
            field=field,
        )
    if recipe.model.task == "seq_cls" or recipe.train.keep_best:
        yield StudioError(
            f"train.distributed {kind} does not go with a classifier or with train.keep_best.",
            "Set it to ddp, or turn the other off.",
            field=field,
        )
    if kind == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        yield StudioError(
            "train.distributed deepspeed needs the package deepspeed, which is not installed.",
            "pip install deepspeed, or set train.distributed to ddp.",
            field=field,
        )


def _data(recipe: Recipe) -> Iterator[StudioError]:
    ways = [name for name in ("holdout_rows", "holdout_column", "holdout_source") if getattr(recipe.data, name)]
    if len(ways) > 1:
        yield StudioError(
            f"{' and '.join('data.' + name for name in ways)} are both set.",
            "Choose one way to hold rows out.",
            field=f"data.{ways[1]}",
        )


def no_padding_free(recipe: Recipe) -> str:
    """Why rows of a batch cannot stand one behind another, or nothing."""
    if recipe.train.packing:
        return "train.packing already leaves no padding."
    if recipe.method.kind in PROMPTED:
        return f"{METHODS[recipe.method.kind].title} puts vectors before each row, which needs rows of their own."
    if recipe.model.task == "seq_cls":
        return "A classifier gives one answer for each row, so rows cannot stand one behind another."
    if recipe.train.neftune_noise_alpha:
        return "NEFTune's noise is scaled by the length of a row, so rows cannot stand one behind another."
    return ""
