"""Training and held-out rows: by a share or a number, by a column, or from a second file; and never the same row twice.

A row is held out by the hash of its content and the seed, so adding rows moves none from one side to the other, except
rows that are near duplicates of an added one: near duplicates, as far as they are found, stand on the same side.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from studio.data.duplicates import Clusters, comparable, signature
from studio.errors import StudioError
from studio.recipe import DataSpec
from studio.workspace import Workspace

if TYPE_CHECKING:
    import datasets

_VERSION = 1  # of how rows are compared and held out; what was kept by another one is made anew
HELD_OUT_WORDS = (
    "true",
    "1",
    "1.0",
    "yes",
    "test",
    "validation",
    "valid",
    "val",
    "dev",
    "eval",
    "evaluation",
    "holdout",
)


def content_hash(row: dict[str, Any], seed: int = 0) -> int:
    """64 bits of sha256 over a conversation's content and a seed."""
    content = row.get("messages") or row.get("text") or row.get("input_ids")
    more = [row[key] for key in ("tools", "labels", "label") if row.get(key)]
    content = [content, *more] if more else content
    text = f"{seed}:{json.dumps(content, ensure_ascii=False, sort_keys=True)}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def is_held_out(value: Any) -> bool:
    """Whether a value of ``data.holdout_column`` holds its row out."""
    return str(value).strip().lower() in HELD_OUT_WORDS


def by_hash(hashes: Sequence[int], groups: Sequence[int], data: DataSpec) -> list[bool]:
    """Which rows are held out, of rows with these hashes and groups of near duplicates.

    Groups are taken in the order of a hash of their own until ``data.holdout`` of all hashes, or ``data.holdout_rows``
    rows, are reached. A group that is larger than what is to be held out is trained on, and at least one row stays on
    each side if there are two that differ. A group of more than half of the rows says that nearly all rows are alike;
    it is taken apart into rows that are equal.
    """
    if not (data.holdout or data.holdout_rows) or len(set(hashes)) < 2:
        return [False] * len(hashes)
    sizes = Counter(groups)
    group, size = sizes.most_common(1)[0]
    if 2 * size > len(hashes):
        groups = [(value if own == group else own) for value, own in zip(hashes, groups, strict=True)]
        sizes = Counter(groups)
    target = max(1.0, data.holdout_rows or data.holdout * len(hashes))
    least: dict[int, int] = {}
    for value, own in zip(hashes, groups, strict=True):
        least[own] = min(value, least.get(own, value))
    rank = {own: _as_one(least[own], sizes[own]) for own in least}
    ordered = sorted(rank, key=lambda own: (rank[own], own))
    small = [own for own in ordered if sizes[own] <= target] or [min(ordered, key=lambda own: (sizes[own], rank[own]))]
    if data.holdout_rows:
        out, rows = set(), 0
        for own in small:
            if rows + sizes[own] <= target:
                out.add(own)
                rows += sizes[own]
    else:
        out = {own for own in small if rank[own] < data.holdout * 2**64}
    out = out or {small[0]}
    if len(out) == len(ordered):
        out.remove(ordered[-1])
    return [own in out for own in groups]


def _as_one(least: int, size: int) -> int:
    """The smallest of ``size`` even hashes as one even hash again: P(least <= x) = 1 - (1 - x)^size."""
    return least if size == 1 else int((1 - (1 - least / 2**64) ** size) * 2**64)


def groups_of(rows: Iterable[dict[str, Any]]) -> list[int]:
    """For each row the number of its group of near duplicates; a row without any has a group of its own."""
    clusters = Clusters()
    number = -1
    for number, row in enumerate(rows):
        clusters.add(number, signature(comparable(row)))
    return [clusters.group(place) for place in range(number + 1)]


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
        from studio.data.conversations import held_out_source
        from studio.data.load import load_conversations

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
    settings = [data.holdout, data.holdout_rows, data.holdout_column, data.holdout_source is not None, seed, _VERSION]
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
