"""Whether the files of a model, an adapter or a checkpoint have every weight that the model needs.

transformers and PEFT initialise what is missing and only log it, so a model without weights would train as if nothing
had happened.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from studio.errors import StudioError

_NAMED = 3  # weights that a message names


def check_loaded(loaded: dict[str, Any], source: str, fix: str = "") -> list[str]:
    """Refuse a model that was loaded without some of its weights.

    Args:
        loaded: what ``from_pretrained`` returns with ``output_loading_info``; weights tied to one that is there are
            not among the missing ones.
        source: the model's id or folder, for the message.

    Returns:
        The weights in the files that the model does not use, sorted.

    Raises:
        StudioError: weights are missing (``weights_missing``) or have another shape (``weights_mismatched``).
    """
    fix = fix or "Download or copy the model's files again, or choose another model."
    odd = sorted(item[0] if isinstance(item, tuple) else item for item in loaded["mismatched_keys"])
    if odd:
        raise StudioError(
            f"{_count(odd)} of {source} {_have(odd)} another shape than the model: {_names(odd)}.",
            fix,
            field="model.id",
            code="weights_mismatched",
        )
    if missing := sorted(loaded["missing_keys"]):
        raise StudioError(
            f"{_count(missing)} of {source} {_are(missing)} missing from its files: {_names(missing)}.",
            fix,
            field="model.id",
            code="weights_missing",
        )
    return sorted(loaded["unexpected_keys"])


def check_quantised(model: Any, source: str) -> None:
    """Refuse quantised layers whose weights have another shape; transformers does not compare these.

    Raises:
        StudioError: with ``weights_mismatched``.
    """
    odd = []
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if type(weight).__name__ not in ("Params4bit", "Int8Params"):
            continue
        state = getattr(weight, "quant_state", None)
        if tuple(state.shape if state is not None else weight.shape) != (module.out_features, module.in_features):
            odd.append(f"{name}.weight")
    check_loaded({"mismatched_keys": odd, "missing_keys": [], "unexpected_keys": []}, source)


def unexpected_warning(names: list[str], source: str) -> tuple[str, str]:
    """What a run says about weights in the files that the model does not use, and what to do."""
    return (
        f"{_count(names)} in the files of {source} {_are(names)} not used by the model: {_names(names)}.",
        "Check that config.json belongs to these weights.",
    )


def check_adapter(model: Any, folder: Path, adapter: str = "default") -> None:
    """Refuse an adapter whose files lack weights that its configuration asks for.

    Args:
        model: PEFT's model, with the adapter of ``folder`` loaded under the name ``adapter``.

    Raises:
        StudioError: weights are missing (``weights_missing``).
    """
    from peft import get_peft_model_state_dict

    if model.peft_config[adapter].is_prompt_learning:
        return  # it has one tensor, without which PEFT does not load it
    wanted = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    _refuse_missing(wanted, saved_shapes(folder), f"the adapter in {folder}")


def check_checkpoint(model: Any, folder: Path) -> None:
    """Refuse a checkpoint of a whole model that lacks weights, before they are loaded into ``model``.

    Raises:
        StudioError: weights are missing (``weights_missing``) or have another shape (``weights_mismatched``).
    """
    saved = saved_shapes(folder)
    present = {id(tensor) for name, tensor in model.named_parameters(remove_duplicate=False) if name in saved}
    wanted = {
        name: tensor
        for name, tensor in model.named_parameters(remove_duplicate=False)
        if id(tensor) not in present or name in saved  # tied to one that is there
    }
    _refuse_missing(wanted, saved, f"the checkpoint {folder.name}")


def saved_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes of all tensors in a folder's safetensors files, from their headers."""
    from safetensors import safe_open

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return found


def _refuse_missing(wanted: dict[str, Any], saved: dict[str, tuple[int, ...]], source: str) -> None:
    fix = "Its files are damaged: restore them from a copy, or train again."
    if missing := sorted(set(wanted) - set(saved)):
        what = f"{_count(missing)} of {source} {_are(missing)} missing from its files: {_names(missing)}."
        raise StudioError(what, fix, code="weights_missing")
    odd = sorted(name for name, tensor in wanted.items() if tuple(tensor.shape) != saved[name])
    if odd:
        what = f"{_count(odd)} of {source} {_have(odd)} another shape than the model: {_names(odd)}."
        raise StudioError(what, fix, code="weights_mismatched")


def _names(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _count(names: list[str]) -> str:
    return "1 weight" if len(names) == 1 else f"{len(names):,} weights"


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _have(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"
