"""Whether a recipe can be launched: one function for the page, ``python app.py train`` and the worker.

It reads the small files of the model, prepares the tokenizer with its chat template, and encodes the first rows. No
weights are loaded. What takes longer (the whole dataset) is counted and checked elsewhere.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from studio.errors import StudioError, StudioErrors
from studio.hub_status import offline
from studio.jobs.progress import download_state
from studio.models import store
from studio.recipe import ModelSpec, Recipe
from studio.recipe.warnings import warnings

FIRST_ROWS = 20
_ROW_SECONDS = 5  # of processor time that the chat template may take for them


@dataclass(frozen=True)
class Examined:
    """What the files of a recipe's model and the first rows of its data tell.

    Attributes:
        problems: why they cannot be used.
        rejected: rows among the first ones that cannot be trained on, by reason; ``first`` is the first of each.
        rows: how many rows were encoded.
    """

    problems: tuple[StudioError, ...] = ()
    rejected: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    rows: int = 0


@dataclass(frozen=True)
class LaunchCheck:
    """What stands in the way of a launch (``problems``), and what is probably a mistake (``warnings``)."""

    problems: list[StudioError]
    warnings: list[StudioError]
    examined: Examined = Examined()

    def refuse(self) -> None:
        """Raise all problems together.

        Raises:
            StudioErrors: there are any.
        """
        if self.problems:
            raise StudioErrors(self.problems)


Prepare = Callable[[Recipe], tuple[Any, list[str]]]


def check_launch(
    recipe: Recipe, *, steps: int | None = None, examine: Callable[[Recipe], Examined] | None = None
) -> LaunchCheck:
    """Everything that can be known of a recipe before it runs.

    Args:
        steps: how many optimizer steps the run takes, where that is known.
        examine: looks at the model's files and the first rows; None for :func:`examine`. It is called only for a
            recipe that is sound and whose model is on this disk.
    """
    problems = list(recipe.problems())
    folder, missing = _folder(recipe.model)
    problems += [missing] if missing else []
    if package := _missing_package(recipe):
        problems.append(package)
    examined = Examined()
    if folder is not None and not problems:
        examined = (examine or examine_files)(recipe)
        problems += examined.problems
    return LaunchCheck(problems, warnings(recipe, steps), examined)


def _folder(spec: ModelSpec) -> tuple[Path | None, StudioError | None]:
    """The folder of the model if it is on this disk; and why it can neither be used nor fetched."""
    try:
        folder = store.local_folder(spec)
        return (store.check_folder(folder) if folder else None), (None if folder else _not_to_be_had(spec))
    except StudioError as error:
        return None, error


def _not_to_be_had(spec: ModelSpec) -> StudioError | None:
    """Why a model that is not on this disk cannot be fetched, as far as is known without asking the network."""
    state = download_state(spec.id)
    if state and state["state"] == "failed":
        error = state["error"]
        return StudioError(error["what"], error["fix"], field="model.id", code="download_failed")
    if offline() and not spec.id.startswith("builtin/") and not store.is_local(spec):
        return StudioError(
            f"{spec.id} is not on this disk, and HF_HUB_OFFLINE forbids downloads.",
            "Unset HF_HUB_OFFLINE, or use a built-in model or a local folder.",
            field="model.id",
            code="model_offline",
        )
    return None


def _missing_package(recipe: Recipe) -> StudioError | None:
    quantization = recipe.model.quantization
    if quantization == "none" or importlib.util.find_spec("bitsandbytes"):
        return None
    return StudioError(
        f"model.quantization {quantization} needs the package bitsandbytes, which is not installed.",
        "pip install bitsandbytes, or set model.quantization to none.",
        field="model.quantization",
        code="package_missing",
    )


def examine_files(recipe: Recipe, prepare: Prepare | None = None, rows: int = FIRST_ROWS) -> Examined:
    """Check a recipe's task against the architecture of its model, prepare the tokenizer, and encode the first rows.

    Args:
        prepare: gives the tokenizer of a recipe, ready to encode; None makes it.
        rows: how many rows to encode; with 0 the data is not opened.
    """
    from studio.models.architectures import check_task
    from studio.models.remote_code import may_run
    from studio.training.check import prepared_tokenizer

    try:
        folder = store.local_folder(recipe.model)
        assert folder is not None, "the caller has looked"
        may_run(folder, recipe.model.trust_remote_code)
        check_task(folder, recipe.model)
        tokenizer, _ = (prepare or prepared_tokenizer)(recipe)
        return _first_rows(recipe, tokenizer, rows) if rows else Examined()
    except StudioError as error:
        return Examined((error,))


def _first_rows(recipe: Recipe, tokenizer: Any, count: int) -> Examined:
    from studio.data import read_conversations
    from studio.data.conversations import place
    from studio.data.encode import encode_batch
    from studio.data.time_limit import time_limit

    task = recipe.model.task
    found = list(islice(read_conversations(recipe.data, task=task).conversations, count))
    usable = [conversation for conversation in found if not conversation.dropped]
    encoded: list[Any] = []
    if task != "seq_cls":  # whether a label is known is told by all rows, not by the first ones
        with time_limit(_ROW_SECONDS):
            encoded = encode_batch(tokenizer, [conversation.content() for conversation in usable], recipe.data)
    reasons = [(conversation, conversation.dropped) for conversation in found if not conversation.unwanted]
    reasons += [
        (conversation, made.what if isinstance(made, StudioError) else made.dropped)
        for conversation, made in zip(usable, encoded, strict=False)
    ]
    rejected: dict[str, int] = {}
    first: dict[str, str] = {}
    for conversation, reason in reasons:
        if reason:
            reason = reason.rstrip(".")
            rejected[reason] = rejected.get(reason, 0) + 1
            first.setdefault(reason, place(conversation))
    return Examined((), rejected, first, len(found))
