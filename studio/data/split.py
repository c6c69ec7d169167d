"""Training and held-out rows: by a share or a number, by a column, or from a second file; and never the same row twice.

A row is held out by the hash of its content and the seed, so adding rows moves none from one side to the other, except
rows that are near duplicates of an added one: near duplicates always stand on the same side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from studio.data.duplicates import Clusters, comparable, signature
from studio.recipe import DataSpec

if TYPE_CHECKING:
    import datasets

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
    text = f"{seed}:{json.dumps(content, ensure_ascii=False, sort_keys=True)}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def is_held_out(value: Any) -> bool:
    """Whether a value of ``data.holdout_column`` holds its row out."""
    return str(value).strip().lower() in HELD_OUT_WORDS


def by_hash(hashes: Sequence[int], groups: Sequence[int], data: DataSpec) -> list[bool]:
    """Which rows are held out, of rows with these hashes and groups of near duplicates.

    A group is held out if its smallest hash is below the limit, and the limit is the share of all hashes, or the
    smallest that holds out ``data.holdout_rows`` rows. At least one row stays on each side if there are two groups.
    """
    least: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for value, group in zip(hashes, groups, strict=True):
        least[group] = min(value, least.get(group, value))
        sizes[group] = sizes.get(group, 0) + 1
    ordered = sorted(least, key=lambda group: (least[group], group))
    if len(ordered) < 2 or not (data.holdout or data.holdout_rows):
        return [False] * len(hashes)
    out: set[int] = set()
    if data.holdout_rows:
        rows = 0
        for group in ordered[:-1]:
            if rows >= data.holdout_rows:
                break
            out.add(group)
            rows += sizes[group]
    else:
        limit = int(data.holdout * 2**64)
        # a group has as many chances of a small hash as it has rows; _decider takes them back
        out = {group for group in ordered if _decider(least[group], sizes[group]) < limit} or {ordered[0]}
        if len(out) == len(ordered):
            out.remove(ordered[-1])
    return [group in out for group in groups]


def _decider(least: int, size: int) -> int:
    """The smallest of ``size`` even hashes as one even hash again: P(least <= x) = 1 - (1 - x)^size."""
    if size == 1:
        return least
    return int((1 - (1 - least / 2**64) ** size) * 2**64)


def groups_of(rows: Sequence[dict[str, Any]]) -> list[int]:
    """For each row the number of its group of near duplicates; a row without any has a group of its own."""
    clusters = Clusters()
    for number, row in enumerate(rows):
        clusters.add(number, signature(comparable(row)))
    return [clusters.group(number) for number in range(len(rows))]


def split_conversations(
    dataset: datasets.Dataset, data: DataSpec, seed: int
) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """Training and held-out rows of ``load_conversations``; None if nothing is held out."""
    if data.holdout_source:
        from studio.data.conversations import held_out_source
        from studio.data.load import load_conversations

        return dataset, load_conversations(held_out_source(data))
    if data.holdout_column:
        out = [bool(held_out) for held_out in dataset["held_out"]]
    elif data.holdout or data.holdout_rows:
        rows = list(dataset)
        out = by_hash([content_hash(row, seed) for row in rows], groups_of(rows), data)
    else:
        return dataset, None
    chosen = [i for i, held_out in enumerate(out) if held_out]
    if not chosen:
        return dataset, None
    return dataset.select([i for i, held_out in enumerate(out) if not held_out]), dataset.select(chosen)
