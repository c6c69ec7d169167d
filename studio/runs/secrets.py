"""Which tokens and keys the worker of a recipe needs in its environment."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from studio.jobs.environment import HUB_TOKENS, TRACKER_KEYS
from studio.recipe import Recipe


def needed_secrets(recipe: Recipe, *, model_is_here: bool = False, reports: bool = True) -> set[str]:
    """Names of the environment variables with secrets that a process needs to work on a recipe.

    A Hub token is needed where a model, an adapter or a dataset is named by its Hub id, a tracker's key where metrics
    are sent to it.

    Args:
        model_is_here: the model's files are on this disk, so that they are not fetched.
        reports: the process sends metrics.
    """
    # code that comes with a model has been looked through, so its files are here
    fetched = [] if model_is_here or recipe.model.trust_remote_code else [recipe.model.id]
    named = [*fetched, recipe.model.adapter, recipe.data.source, recipe.data.holdout_source]
    named += [source.source for source in recipe.data.mix]
    needed = set(HUB_TOKENS) if on_hub(named) else set()
    return needed | set(TRACKER_KEYS[recipe.train.report_to]) if reports else needed


def on_hub(names: Iterable[str | None]) -> bool:
    """Whether one of these models or datasets has to be asked for at the Hub."""
    return any(name and not name.startswith("builtin/") and not _is_path(name) for name in names)


def _is_path(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # no file system takes the name
        return True
