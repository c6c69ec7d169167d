"""What the worker chooses of how a model's layers compute: attention, Liger's kernels, fused passes, torch.compile.

They follow from the device, the model and the recipe, not from the time that something takes; what computes otherwise
than the model itself is tried on random numbers first. A recipe that names a value is obeyed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

from studio.errors import StudioError
from studio.models import attention
from studio.models.head import TOLERANCE, without_dropout
from studio.models.processor import widens_attention
from studio.recipe import Recipe
from studio.training.acceleration.compiled import CompiledLayers
from studio.training.acceleration.fused_layers import FusedLayers
from studio.training.choices import KEPT, Choices

_LAYERS = "norms, rotary positions, gated layers"


def choose_attention(choices: Choices, recipe: Recipe, model: Any, device: str, fixed: str | None = None) -> None:
    """Set the attention of a loaded model.

    On a CPU with a half-precision base it is the float32 kernel, unless the processor has a matrix unit. On a GPU
    FlashAttention is taken where it is installed. ``fixed`` is what a resumed or repeated run began with, or what all
    ranks take.
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
    elif not widens_attention():
        choices.say("attention", "sdpa", "PyTorch's own kernel, which uses this processor's matrix unit (AMX).")
    else:
        model.set_attn_implementation(attention.registered(attention.FLOAT32))
        why = "On a processor without a matrix unit (AMX) PyTorch's kernel is faster in float32 than in half precision."
        choices.say("attention", attention.FLOAT32, why)


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


def choose_kernels(choices: Choices, recipe: Recipe, model: Any, device: str) -> None:
    """Put Liger's kernels into a loaded base model, in the place of its norms, rotary positions and gated layers.

    The loss is not theirs: see :mod:`studio.models.labelled_loss`.

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


def choose_compile(choices: Choices, recipe: Recipe, layers: CompiledLayers, kept: bool | None = None) -> bool:
    """Compile a model's repeated layers where the recipe asks for it.

    Args:
        kept: what the run began with, if it is resumed or repeated.
    """
    what, wanted = "torch.compile", recipe.train.torch_compile
    if wanted == "auto":
        compiled = bool(kept)
        choices.say(what, "on" if compiled else "off", KEPT if kept is not None else "It is used where a recipe asks.")
    else:
        compiled = wanted == "on"
        choices.say(what, wanted, "", asked=True)
    if compiled:
        layers.compile()
        choices.say(_LAYERS, "as they are", "They are compiled.")
    return compiled


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
