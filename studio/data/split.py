"""Training and held-out rows: by a share or a number, by a column, or from a second file; and never the same row twice.

A row is held out by the hash of its content and the seed, so adding rows moves none from one side to the other, except
rows that are near duplicates of an added one: near duplicates, as far as they are found, stand on the same side.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from studio.data.duplicates import Clusters, comparable, signature
from studio.recipe import DataSpec

if TYPE_CHECKING:
    pass

VERSION = 1  # of how rows are compared and held out; what was kept by another one is made anew
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
