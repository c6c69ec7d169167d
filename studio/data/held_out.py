"""The two sides of a dataset: the rows that are trained on, and the held-out rows that are scored."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from studio.data import sources
from studio.data.conversations import held_out_source
from studio.data.load import load_conversations
from studio.data.split import VERSION, by_hash, content_hash, groups_of
from studio.errors import StudioError
from studio.recipe import DataSpec
from studio.workspace import Workspace

if TYPE_CHECKING:
    import datasets


def split_conversations(
    dataset: datasets.Dataset, data: DataSpec, seed: int, task: str = "causal_lm"
) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """Training and held-out rows of ``load_conversations``; None if nothing is held out.

    Where a column or a second source says which rows are held out, rows that are nearly the same as one of them are
    neither trained on nor held out.

    Raises:
        StudioError: no row is left to be trained on.
    """
    second = None
    if data.holdout_source:
        second = load_conversations(held_out_source(data), task=task)
    elif not (data.holdout_column or data.holdout or data.holdout_rows):
        return dataset, None
    origin = _origin(dataset, second, data, seed)
    path = Workspace.current().folder("datasets/cache") / f"{origin}.split.json" if origin else None
    try:
        trained, held_out = json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else (None, None)
    except (OSError, ValueError):
        trained, held_out = None, None
    if trained is None:
        trained, held_out = _sides(dataset, second, data, seed)
        if path:
            with contextlib.suppress(OSError):  # a full disk: the rows are compared again the next time
                aside = path.with_name(f"{path.name}.{os.getpid()}.part")
                aside.write_text(json.dumps([trained, held_out]), encoding="utf-8")
                aside.replace(path)
    if second is None and not held_out:
        return dataset, None
    sides = dataset.select(trained), second if second is not None else dataset.select(held_out)
    if origin:
        sides[0].kept_as = f"{origin} trained"
        if second is None:
            sides[1].kept_as = f"{origin} held out"
    return sides


def _origin(dataset: Any, second: Any, data: DataSpec, seed: int) -> str | None:
    """A digest of all that the sides depend on; None for rows whose origin is not known."""
    rows = [getattr(one, "kept_as", None) for one in (dataset, second) if one is not None]
    if None in rows:
        return None
    settings = [data.holdout, data.holdout_rows, data.holdout_column, data.holdout_source is not None, seed, VERSION]
    return hashlib.sha256(json.dumps([rows, settings]).encode()).hexdigest()[:32]


def _sides(dataset: Any, second: Any, data: DataSpec, seed: int) -> tuple[list[int], list[int]]:
    """The places of the rows that are trained on, and of those that are held out (none if there is a second source)."""
    if second is not None:
        sides = [False] * len(dataset) + [True] * len(second)
        return _apart(sides, groups_of(chain(dataset, second)), of=len(dataset)), []
    if data.holdout_column:
        out = [bool(held_out) for held_out in dataset["held_out"]]
        chosen = [i for i, held_out in enumerate(out) if held_out]
        return _apart(out, groups_of(dataset), of=len(out)) if chosen else [], chosen
    hashes: list[int] = []

    def hashed() -> Iterator[dict[str, Any]]:
        for row in dataset:
            hashes.append(content_hash(row, seed))
            yield row

    groups = groups_of(hashed())
    out = by_hash(hashes, groups, data)
    return [i for i, held_out in enumerate(out) if not held_out], [i for i, held_out in enumerate(out) if held_out]


def _apart(out: list[bool], groups: list[int], of: int) -> list[int]:
    """Which of the first ``of`` rows are trained on: those in no group with a row that is held out."""
    taken = {group for group, held_out in zip(groups, out, strict=True) if held_out}
    kept = [i for i in range(of) if groups[i] not in taken]
    if of and not kept:
        raise StudioError(
            "No row is left to train on: each is held out, or nearly the same as a row that is.",
            "Hold out other rows, or fewer: data.holdout_source, data.holdout_column.",
        )
    return kept


def load_evaluation(data: DataSpec, seed: int, task: str = "causal_lm") -> datasets.Dataset:
    """The rows that ``evaluate`` scores: the dataset's own test split if it has one, otherwise the held-out rows.

    Raises:
        StudioError: there is neither.
    """
    if data.eval_split != "auto":
        return load_conversations(data, data.eval_split, task)
    chosen = data.holdout_rows or data.holdout_column or data.holdout_source
    if not chosen and data.split != "test" and {"test"} < set(sources.splits(data)):  # an only split is trained on
        return load_conversations(data, "test", task)
    held_out = split_conversations(load_conversations(data, task=task), data, seed, task)[1]
    if held_out is None:
        raise StudioError(
            "There are no held-out rows to score: the dataset has no test split and none are held out.",
            "Set data.holdout, or name a split in data.eval_split, and train again.",
            field="data.holdout",
        )
    return held_out
