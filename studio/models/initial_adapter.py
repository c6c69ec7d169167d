"""An adapter that a run goes on from: one of an earlier run, of a folder, or of the Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from studio.errors import StudioError
from studio.models import hub_models
from studio.models.adapter_check import check_adapter
from studio.models.builtin import private_id
from studio.recipe import Recipe
from studio.recipe.methods import METHODS
from studio.workspace import Workspace, safe_name


def adapter_folder(recipe: Recipe) -> Path:
    """The folder with the adapter that ``model.adapter`` names; one of the Hub is fetched.

    Raises:
        StudioError: there is no such adapter, or it is of another method than the recipe's.
    """
    folder = find_adapter(recipe.model.adapter or "")
    kind = adapter_kind(folder)
    if kind != recipe.method.kind:
        title = METHODS[kind].title if kind in METHODS else kind
        raise StudioError(
            f"The adapter {recipe.model.adapter} was trained with {title}, and the recipe says {recipe.method.kind}.",
            f"Set method.kind to {kind}." if kind in METHODS else "Choose another adapter.",
            field="model.adapter",
        )
    return folder


def find_adapter(name: str) -> Path:
    """The folder of an adapter by a run's id, a path or a Hub id.

    Raises:
        StudioError: there is none.
    """
    runs, path = Workspace.current().runs, Path(name).expanduser()
    for folder in (runs / name / "model" if safe_name(name) == name else path, path):
        if (folder / "adapter_config.json").is_file():
            return folder
    if path.exists() or not _is_hub_id(name):
        raise StudioError(
            f"There is no adapter at {name}.",
            "Name a run that trained one, a folder with adapter_config.json, or owner/name on the Hub.",
            field="model.adapter",
        )
    folder = hub_models.download(name)
    if not (folder / "adapter_config.json").is_file():
        raise StudioError(f"{name} is not an adapter.", "Choose a repository with one.", field="model.adapter")
    return folder


def adapter_kind(folder: Path) -> str:
    """The ``method.kind`` of a saved adapter, or PEFT's own name for a method that the studio does not have.

    Raises:
        StudioError: its configuration cannot be read.
    """
    try:
        kind = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudioError(
            f"{folder / 'adapter_config.json'} cannot be read.", "Copy the adapter again.", field="model.adapter"
        ) from error
    return str(kind).lower()


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Around every place where PEFT loads an adapter: it knows all of the studio's methods, and what fails is said.

    Raises:
        StudioError: the files are damaged or do not fit the model, which must not be used any more.
    """
    from safetensors import SafetensorError

    import studio.models.bottleneck  # noqa: F401  a method that PEFT does not have

    check_adapter(folder)
    try:
        yield
    except StudioError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise StudioError(
            f"The adapter in {folder} cannot be loaded: {first}",
            "Its files are damaged or belong to another base model; train again, or restore them.",
        ) from error


def base_of(folder: Path) -> str:
    """The model that an adapter names as its base, the built-in one by its name here.

    Raises:
        StudioError: it names none.
    """
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    if not base:
        raise StudioError(
            f"The adapter in {folder} does not say which base it belongs to.",
            "Write the base into base_model_name_or_path of its adapter_config.json.",
        )
    return private_id(base)


def _is_hub_id(name: str) -> bool:
    try:
        hub_models.check_id(name)
    except StudioError:
        return False
    return "/" in name
