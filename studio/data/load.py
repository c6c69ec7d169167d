"""A whole dataset as canonical conversations, on disk and memory-mapped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.data import sources
from studio.data.conversations import invalid_rows, nothing_left, place, read_conversations, survey
from studio.data.split import content_hash
from studio.errors import StudioError
from studio.recipe import ENCODER_SETTINGS, DataSpec
from studio.workspace import Workspace

if TYPE_CHECKING:
    import datasets

_JSON = ("messages", "tools", "label")
_VERSION = 7  # of the columns in the workspace; an older cache is made anew
_UNRELATED = (  # settings that do not change the conversations
    *ENCODER_SETTINGS,
    *("eval_split", "holdout", "holdout_rows", "holdout_source"),
)


def load_conversations(data: DataSpec, split: str | None = None, task: str = "causal_lm") -> datasets.Dataset:
    """The whole dataset as canonical conversations, on disk and memory-mapped; dropped rows are left out.

    Columns, of which those that do not apply are None: ``row`` (int, the row's number in the source), ``messages``
    (list of dicts with ``role``, ``content`` and more, see ``studio.data.turns``), ``tools`` (list of functions),
    ``text``, ``input_ids`` and ``labels`` (ints), ``label`` (the class of a text, or the list of its classes),
    ``held_out`` (bool). Kept in the workspace, by the identity of the sources and the settings.

    Args:
        task: the recipe's ``model.task``; with ``seq_cls`` each row is a text with its label.

    Raises:
        StudioError: a source cannot be read, or no row is left.
    """
    import datasets

    features = {
        "row": datasets.Value("int64"),
        "messages": datasets.Value("large_string"),  # JSON, which keeps every number as it is; _read turns it back
        "tools": datasets.Value("large_string"),
        "text": datasets.Value("large_string"),
        "input_ids": datasets.List(datasets.Value("int32")),
        "labels": datasets.List(datasets.Value("int32")),
        "label": datasets.Value("large_string"),
        "held_out": datasets.Value("bool"),
    }
    key = conversations_key(data, split, task)
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        rows = datasets.Dataset.from_generator(
            _generate,
            features=datasets.Features(features),
            gen_kwargs={"data": data.model_dump_json(), "split": split or data.split, "key": key, "task": task},
            fingerprint=key,
            cache_dir=str(Workspace.current().datasets / "cache"),
        ).with_transform(_read)
        rows.kept_as = key  # what is made of these rows can be kept under it
        return rows
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, StudioError):
            raise error.__cause__ from None
        raise
    finally:
        if bars:
            datasets.enable_progress_bars()


def _read(batch: dict[str, list]) -> dict[str, list]:
    """A batch of rows with its JSON read."""
    for name in _JSON:
        if name in batch:
            batch[name] = [None if text is None else json.loads(text) for text in batch[name]]
    return batch


def conversations_key(data: DataSpec, split: str | None, task: str) -> str:
    """What the conversations of a dataset are kept under: a digest of all that they depend on."""
    settings = {**data.model_dump(mode="json", exclude=set(_UNRELATED)), "split": split or data.split}
    parts = json.dumps([settings, sources.identity(data, split), task, _VERSION], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def _left_out_path(key: str) -> Path:
    return Workspace.current().folder("datasets/cache") / f"{key}.left_out.json"


def left_out(data: DataSpec, task: str = "causal_lm") -> dict[str, tuple[int, str]]:
    """The rows that ``load_conversations`` has left out and that need mending, by reason: how many, and the first.

    Raises:
        StudioError: there are such rows, and ``data.invalid_rows`` is ``stop``.
    """
    path = _left_out_path(conversations_key(data, None, task))
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        invalid, first = kept["invalid"], kept["first"]
    else:
        seen = survey(data, task=task)
        invalid, first = seen.invalid, seen.first
    if invalid and data.invalid_rows == "stop":
        raise invalid_rows(invalid, first)
    return {reason: (count, first[reason]) for reason, count in invalid.items()}


def _generate(data: str, split: str, key: str, task: str) -> Iterator[dict[str, Any]]:
    """Rows for ``Dataset.from_generator``; what is left out goes into a file beside its cache."""
    spec = DataSpec.model_validate_json(data)
    reading = read_conversations(spec, split, 1, task)
    first: dict[str, str] = {}
    invalid: Counter = Counter()
    kept = 0
    for conversation in reading.conversations:
        if conversation.dropped:
            first.setdefault(conversation.dropped, place(conversation))
            invalid.update([] if conversation.unwanted else [conversation.dropped])
            continue
        row = {**conversation.content(), "row": conversation.row, "held_out": conversation.held_out}
        row |= {name: json.dumps(row[name]) for name in _JSON if row[name] is not None}
        for _ in range(conversation.copies):
            kept += 1
            yield row
    if not kept:
        raise nothing_left(reading, first)
    path = _left_out_path(key)
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    kept_facts = {"invalid": dict(invalid.most_common()), "first": first}
    kept_facts |= {"unused_columns": reading.unused_columns(), "splits": reading.splits(), "notes": reading.notes()}
    aside.write_text(json.dumps(kept_facts), encoding="utf-8")
    aside.replace(path)


def not_used(data: DataSpec, task: str = "causal_lm") -> dict[str, Any]:
    """What ``load_conversations`` has not used: ``unused_columns`` and ``splits`` (``Reading``), and ``notes`` on them.

    Empty if the rows have not been loaded in this workspace.
    """
    path = _left_out_path(conversations_key(data, None, task))
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {name: kept.get(name, []) for name in ("unused_columns", "splits", "notes")}


def fingerprint(dataset: datasets.Dataset) -> str:
    """sha256 over the canonical conversations, in order; computed once for the rows of ``load_conversations``."""
    origin = getattr(dataset, "kept_as", None)
    path = Workspace.current().folder("datasets/cache") / f"{origin}.fingerprint" if origin else None
    if path and path.exists():
        return path.read_text(encoding="ascii")
    digest = hashlib.sha256()
    for row in dataset:
        digest.update(content_hash(row).to_bytes(8, "big"))
    if path:
        with contextlib.suppress(OSError):  # a full disk: it is computed again the next time
            aside = path.with_name(f"{path.name}.{os.getpid()}.part")
            aside.write_text(digest.hexdigest(), encoding="ascii")
            aside.replace(path)
    return digest.hexdigest()
