"""The rows of a dataset without those that the report has found wanting, as JSON Lines of canonical conversations."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from studio.data import read_conversations
from studio.data.quality_report import INVALID, KINDS
from studio.errors import StudioError
from studio.recipe import Recipe
from studio.training.check import check, kept_index

REMOVABLE = tuple(kind for kind in KINDS if kind not in (*INVALID, "unwanted", "masked"))
"""Findings that rows can be removed for; rows that cannot be trained on are always left out."""
DEFAULT = ("duplicate",)


def clean(
    recipe: Recipe,
    target: Path,
    without: Collection[str] = DEFAULT,
    progress: Callable[[int], None] = lambda rows: None,
) -> tuple[int, int]:
    """Write the cleaned rows of a recipe's dataset to a JSONL file, whole or not at all.

    Each line is ``{"messages", "tools"}``, ``{"text"}``, ``{"text", "label"}`` or ``{"input_ids", "labels"}``, and
    ``data.holdout_column`` as true or false if there is one. The report is made if there is none yet.

    Args:
        without: kinds of findings (``REMOVABLE``) whose rows are left out. Of duplicates the first row stays.
        progress: called with the number of rows done, now and then.

    Returns:
        Rows written, rows left out.

    Raises:
        StudioError: an unknown kind, the data cannot be read, no row is left, or the file cannot be written.
    """
    unknown = [kind for kind in without if kind not in REMOVABLE]
    if unknown:
        raise StudioError(f"{unknown[0]!r} is not a finding.", f"Use some of: {', '.join(REMOVABLE)}.")
    check(recipe, progress)
    index = kept_index(recipe)
    assert index is not None, "the check has just been made"
    out = {int(row) for kind in (*INVALID, *without) for row in index.flags.get(kind, ())}
    kept = left = 0
    keys: set[str] = set()
    column = recipe.data.holdout_column
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with aside.open("w", encoding="utf-8") as file:
            for conversation in read_conversations(recipe.data, task=recipe.model.task).conversations:
                if conversation.dropped or conversation.row in out:
                    left += 1
                    continue
                content = {key: value for key, value in conversation.content().items() if value is not None}
                keys.add(next(iter(content)))
                if len(keys) > 1:
                    raise StudioError(
                        f"The sources of this mixture have rows of different kinds: {' and '.join(sorted(keys))}.",
                        "Make a cleaned copy of each source by itself.",
                        field="data.mix",
                    )
                if column:
                    content[column] = conversation.held_out
                line = json.dumps(content, ensure_ascii=False) + "\n"
                for _ in range(conversation.copies):
                    file.write(line)
                    kept += 1
                progress(kept + left)
        if not kept:
            raise StudioError("No row would be left.", "Leave out fewer kinds of rows.")
        aside.replace(target)
    except OSError as error:
        raise StudioError(f"{target} cannot be written: {error.strerror}.", "Free some disk space.") from error
    finally:
        aside.unlink(missing_ok=True)
    return kept, left


def main(arguments: list[str]) -> int:
    """``python -m studio.training.clean RECIPE TARGET KIND ...``: the counts as JSON on stdout, or the refusal."""
    recipe, target, *without = arguments
    try:
        kept, left = clean(Recipe.load(recipe), Path(target), without)
    except StudioError as error:
        print(json.dumps({"error": [error.what, error.fix]}))
        return 1
    print(json.dumps({"kept": kept, "left_out": left}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
