"""The data of a run: read, split, encoded, and what is wrong with it said in the run's events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from studio.data import Encoded, encode_once, find_classes, load_conversations, split_conversations
from studio.data.classes import Classes
from studio.data.load import fingerprint, left_out, not_used
from studio.data.pack import pack
from studio.recipe import Recipe
from studio.runs import EventLog
from studio.training import ranks
from studio.training.curve_rules import empty_rows
from studio.training.progress_events import Progress


@dataclass(frozen=True)
class Rows:
    """What a run trains on and is measured on.

    ``held_out`` is None where nothing is held out, ``held_out_rows`` are its rows before they were encoded, and
    ``unused`` the numbers of those that could not be. ``packed_rows`` is None without ``train.packing``. ``not_used``
    is what of the dataset is not read: columns, and files of other splits (``studio.data.load.not_used``).
    """

    fingerprint: str
    examples: list[Encoded]
    held_out: list[Encoded] | None = None
    held_out_rows: Any = None
    unused: frozenset[int] = field(default=frozenset())
    classes: Classes | None = None
    packed_rows: int | None = None
    not_used: dict[str, Any] = field(default_factory=dict)


def read_rows(recipe: Recipe, tokenizer: Any, log: EventLog, progress: Progress) -> Rows:
    """Read, split and encode the data of a recipe; rows that are left out or cut become warnings in the log.

    Raises:
        StudioError: the data cannot be read, or no row is left to train on.
    """
    task = recipe.model.task
    progress("Reading the data", 0, 0)
    with ranks.main_process_first():
        conversations = load_conversations(recipe.data, task=task)
    for reason, (count, first) in left_out(recipe.data, task).items():
        log.write(
            "warning",
            what=f"{count:,} row{'s'[: count != 1]} left out: {reason} (first in {first}).",
            fix="Correct them if they should be trained on.",
        )
    training_rows, held_out_rows = split_conversations(conversations, recipe.data, recipe.train.seed, task)
    total = len(conversations)
    if apart := total - len(training_rows) - (0 if recipe.data.holdout_source else len(held_out_rows or [])):
        log.write(
            "warning",
            what=f"{apart:,} rows are not trained on: (nearly) the same rows are held out.",
            fix="Remove them from one of the two sides.",
        )
    classes = find_classes(training_rows["label"]) if task == "seq_cls" else None

    def encoding(done: int, before: int = 0) -> None:
        progress("Encoding the data", before + done, total)

    examples, dropped = encode_once(tokenizer, training_rows, recipe.data, encoding, classes)
    held_out, unused = None, frozenset()
    if held_out_rows is not None:
        held_out, also_dropped = encode_once(
            tokenizer, held_out_rows, recipe.data, lambda done: encoding(done, len(training_rows)), classes
        )
        unused = frozenset(row for rows in also_dropped.values() for row in rows)
        for reason, rows in also_dropped.items():
            dropped.setdefault(reason, []).extend(rows)
    for reason, rows in dropped.items():
        some = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        log.write("warning", what=f"{len(rows)} rows are left out: {reason} (rows {some}).", fix="See the preview.")
    if advice := empty_rows(dropped, len(training_rows) + len(held_out_rows or [])):
        log.write("warning", what=advice.what, fix=advice.fix, step=0, rule="empty_rows")
    if cut := sum(1 for example in examples if example.cut):
        log.write(
            "warning",
            what=f"{cut} of {len(examples)} training rows are longer than {recipe.data.max_length} tokens and are cut.",
            fix="Raise data.max_length to train on them whole.",
        )
    packed_rows = None
    if recipe.train.packing:
        packed_rows = len(pack([len(example.input_ids) for example in examples], recipe.data.max_length))
    skipped = not_used(recipe.data, task)
    return Rows(fingerprint(conversations), examples, held_out, held_out_rows, unused, classes, packed_rows, skipped)
