"""What the worker chooses of how a model's layers compute: attention, Liger's kernels, fused passes, torch.compile.

Each is tried on the model itself or on random numbers in its shapes; a recipe that names a value is obeyed.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from studio.errors import StudioError
from studio.models import attention
from studio.models.head import TOLERANCE, without_dropout
from studio.recipe import Recipe
from studio.training.choices import Choices
from studio.training.compiled import LEAST_MINUTES, WORTH, CompiledLayers, why_not
from studio.training.fused_layers import FusedLayers

_TURNS = 3
_WORTH = 0.9  # of the time of what is usual: less than a tenth is not worth being different
_LEAST_STEPS = 50  # compiling takes as long as some of them
_LAYERS = "norms, rotary positions, gated layers"


def choose_attention(
    choices: Choices, recipe: Recipe, model: Any, lengths: Sequence[int], device: str, fixed: str | None = None
) -> None:
    """Set the attention of a loaded model.

    On a CPU with a half-precision base the float32 kernel is tried beside the usual one, on random numbers in the shape
    of the recipe's batches (``lengths``: tokens of each row). On a GPU FlashAttention is taken where it is installed.
    ``fixed`` is what a resumed run began with, or what all ranks take.
    """
    wanted = recipe.model.attn_implementation
    if wanted == "auto" and fixed and fixed != model.config._attn_implementation:
        model.set_attn_implementation(attention.registered(fixed))
    if wanted == "auto" and fixed:
        choices.say(
            "attention", fixed, "What the run began with, or the one for classifiers and for several processes."
        )
        return
    if wanted != "auto":
        model.set_attn_implementation(attention.registered(wanted))
        choices.say("attention", wanted, "", asked=True)
        return
    usual = model.config._attn_implementation
    if usual != "sdpa":
        choices.say("attention", usual, "The only one that this architecture has.")
    elif device == "cuda":
        _flash_or(choices, model)
    elif model.dtype == torch.float32 or recipe.train.packing:
        choices.say("attention", "sdpa", "PyTorch's own kernel.")
    else:
        rows = recipe.train.per_device_train_batch_size
        seconds = _tried(model.config.get_text_config(), model.dtype, rows, sorted(lengths)[len(lengths) // 2])
        ratio = seconds[attention.FLOAT32] / seconds["sdpa"]
        best = attention.FLOAT32 if ratio < _WORTH else "sdpa"
        if best != "sdpa":
            model.set_attn_implementation(attention.registered(best))
        choices.say("attention", best, f"Tried on rows of middle length: float32 takes {ratio:.2f} of the usual time.")


def _flash_or(choices: Choices, model: Any) -> None:
    from transformers.utils import is_flash_attn_2_available, is_kernels_available

    if model.dtype not in (torch.bfloat16, torch.float16) or not (
        is_flash_attn_2_available() or is_kernels_available()
    ):
        choices.say("attention", "sdpa", "FlashAttention is not installed, or not made for this number format.")
        return
    try:
        model.set_attn_implementation("flash_attention_2")
        choices.say("attention", "flash_attention_2", "It is installed, and made for this number format.")
    except (ImportError, ValueError, OSError, RuntimeError) as error:
        choices.say("attention", "sdpa", f"FlashAttention cannot be loaded: {str(error).splitlines()[0][:120]}")


def _tried(config: Any, dtype: torch.dtype, rows: int, length: int) -> dict[str, float]:
    """Seconds of a forward and a backward pass of one layer's attention, both ways in turns; the least of a few."""
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    made = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(rows, heads, length, size, generator=made).to(dtype).requires_grad_() for _ in range(3)
    )
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "sdpa": lambda: functional.scaled_dot_product_attention(query, key, value, is_causal=True),
        attention.FLOAT32: lambda: functional.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), is_causal=True
        ).to(dtype),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + _TURNS):
        for name, way in ways.items():
            start = time.perf_counter()
            way().sum().backward()
            seconds[name].append(time.perf_counter() - start)
    return {name: min(found[1:]) for name, found in seconds.items()}


def choose_kernels(choices: Choices, recipe: Recipe, model: Any, device: str) -> None:
    """Put Liger's kernels into a loaded base model, in the place of its norms, rotary positions and gated layers.

    The loss is not theirs: see :mod:`studio.models.loss`.

    Raises:
        StudioError: the recipe asks for them and they are not there; or the model computes something else with them.
    """
    wanted, what = recipe.train.use_liger_kernel, "Liger kernels"
    if wanted == "off":
        choices.say(what, "off", "", asked=True)
        return
    known = _liger_architectures() if device == "cuda" else {}
    kind = getattr(model.config, "model_type", "")
    if device != "cuda":
        why = "They are made for GPUs."
    elif not known:
        why = "The package liger-kernel is not installed."
    else:
        why = "" if kind in known else f"They do not know the architecture {kind}."
    if why:
        if wanted == "on":
            raise StudioError(
                f"train.use_liger_kernel is on, and Liger's kernels cannot be used. {why}",
                "Set train.use_liger_kernel to auto, or install liger-kernel and take a GPU.",
                field="train.use_liger_kernel",
            )
        choices.say(what, "off", why)
        return
    ids = torch.arange(2, 26, device=model.device)[None] % model.config.get_text_config().vocab_size
    with without_dropout(model), torch.no_grad():
        before = model(input_ids=ids, use_cache=False).logits.float()
        known[kind](model)
        after = model(input_ids=ids, use_cache=False).logits.float()
    off = ((after - before).norm() / before.norm()).item()
    if not off <= TOLERANCE.get(model.dtype, 1e-3):
        raise StudioError(
            f"With Liger's kernels this model answers {off:.0%} differently.",
            "Set train.use_liger_kernel to off.",
            field="train.use_liger_kernel",
        )
    choices.say(what, "on", f"They know the architecture {kind}.", asked=wanted == "on")


def _liger_architectures() -> dict[str, Callable[[Any], None]]:
    """What puts Liger's kernels into a model, by ``model_type``; empty where Liger is not installed."""
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as functions
    except ImportError:
        return {}

    def put(apply: Callable[..., None], model: Any) -> None:
        taken = inspect.signature(apply).parameters
        losses = {name: False for name in ("cross_entropy", "fused_linear_cross_entropy") if name in taken}
        apply(model=model, **losses)

    return {kind: partial(put, apply) for kind, apply in functions.items()}


def choose_compile(
    choices: Choices,
    recipe: Recipe,
    layers: CompiledLayers,
    steps: int,
    device: str,
    processes: int = 1,
    fixed: bool | None = None,
    otherwise: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> bool:
    """Compile a model's repeated layers where that pays back within the run, or is asked for.

    Args:
        steps: of the optimizer, in the whole run.
        fixed: what a resumed run began with.
        otherwise: in what the model trains if it is not compiled, see :func:`choose_layers`.
    """
    what, wanted, said = "torch.compile", recipe.train.torch_compile, ""
    if wanted == "auto" and fixed is not None:
        wanted, said = ("on" if fixed else "off"), "What the run began with."
    if wanted != "auto":
        if wanted == "on":
            layers.compile()
            choices.say(_LAYERS, "as they are", "They are compiled.")
        choices.say(what, wanted, said, asked=not said)
        return wanted == "on"
    if why := why_not(recipe, layers, processes):
        choices.say(what, "off", why)
        return False
    if steps < _LEAST_STEPS:
        choices.say(what, "off", f"The run has only {steps} steps.")
        return False
    with otherwise():
        usual = layers.seconds()
    minutes = usual * steps * recipe.train.gradient_accumulation_steps / 60
    if minutes < LEAST_MINUTES[device]:
        least = LEAST_MINUTES[device]
        words = f"The layers take about {minutes:.1f} minutes in this run; compiling is tried from {least} on."
        choices.say(what, "off", words)
        return False
    start = time.perf_counter()
    layers.compile()
    try:
        ratio = layers.seconds() / usual
    except RuntimeError as error:  # no compiler, or code that it cannot take
        if isinstance(error, torch.OutOfMemoryError):
            raise
        layers.undo()
        choices.say(what, "off", f"It failed: {str(error).strip().splitlines()[0][:120]}")
        return False
    words = f"Tried in {time.perf_counter() - start:.0f} s: a layer takes {ratio:.2f} of its time."
    if ratio > WORTH:
        layers.undo()
    else:
        choices.say(_LAYERS, "as they are", "They are compiled.")
    choices.say(what, "off" if ratio > WORTH else "on", words)
    return ratio <= WORTH


def choose_layers(
    choices: Choices, recipe: Recipe, model: Any, device: str
) -> Callable[[], AbstractContextManager[None]]:
    """Makes the block in which the model trains: its norms, rotary positions and gated layers in fused passes, or as
    they are."""
    if not recipe.train.fused_passes:
        choices.say(_LAYERS, "as they are", "", asked=True)
    elif device != "cpu":
        choices.say(_LAYERS, "as they are", "The fused passes are made for CPUs.")
    elif recipe.train.distributed != "ddp":
        choices.say(_LAYERS, "as they are", "The weights are spread over several processes.")
    elif layers := FusedLayers(model):
        choices.say(_LAYERS, f"fused: {layers}", "Tried on random numbers: the same values and gradients.")
        return layers.in_place
    else:
        choices.say(_LAYERS, "as they are", "None of them is what the fused passes compute.")
    return nullcontext
