"""A dataset, wherever it lives, as canonical conversations: read lazily for a preview, or whole for training."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.data import detect, files, formats, hub, rows
from studio.errors import StudioError
from studio.recipe import DataSpec
from studio.workspace import ASSETS, Workspace

if TYPE_CHECKING:
    import datasets

_SAMPLE = 20  # rows looked at to find the shape


@dataclass(frozen=True)
class Conversation:
    """One row after conversion: its number in the source and either ``messages``, ``text``, or why it is dropped."""

    row: int
    messages: list[dict[str, str]] | None = None
    text: str | None = None
    dropped: str | None = None


@dataclass
class Reading:
    """An open dataset: the mapping found, its real columns, and the conversations, read as they are asked for."""

    mapping: formats.Mapping
    columns: list[str]
    conversations: Iterator[Conversation]
    source: str
    dropped: Counter = field(default_factory=Counter)


def builtin_names() -> list[str]:
    """The datasets that come with the studio, as ``builtin/NAME``."""
    return sorted(f"builtin/{p.parent.name}" for p in (ASSETS / "datasets").glob("*/train.jsonl"))


def locate(data: DataSpec, split: str) -> Path | None:
    """The local file behind a source, or None if it is a Hub id.

    Raises:
        StudioError: there is no such built-in dataset, split or file.
    """
    if data.source.startswith("builtin/"):
        if data.source not in builtin_names():
            raise StudioError(
                f"There is no built-in dataset {data.source!r}.",
                f"There is: {', '.join(builtin_names())}.",
                field="data.source",
            )
        folder = ASSETS / "datasets" / data.source.removeprefix("builtin/")
        path = folder / f"{split}.jsonl"
        if path not in folder.glob("*.jsonl"):
            splits = ", ".join(sorted(p.stem for p in folder.glob("*.jsonl")))
            raise StudioError(f"{data.source} has no split {split!r}.", f"It has: {splits}.", field="data.split")
        return path
    path = Path(data.source).expanduser()
    if path.exists() or files.kind_of(path)[0] in files.KINDS or not hub.is_id(data.source):
        if not path.exists():
            raise StudioError(
                f"There is no file or Hub dataset {data.source!r}.",
                "Upload the file, or give its path, or a Hub id such as owner/name.",
                field="data.source",
            )
        return path
    return None


def read_conversations(data: DataSpec, split: str | None = None, start: int = 1) -> Reading:
    """Open a dataset and find its shape; rows are then read and converted one by one.

    Args:
        start: the number of the first row that is wanted. The shape is still found from the first rows of all.

    Raises:
        StudioError: the source cannot be read, or its shape is not known. Iterating may raise it too, at the row
            where the source is broken.
    """
    split = split or data.split
    path = locate(data, split)
    source = rows.read_source(path) if path else hub.stream(data, split)
    head = list(islice(source, _SAMPLE))
    mapping = detect.detect([row.values for row in head], data.format, data.columns)
    columns = list(dict.fromkeys(name for row in head for name in row.values))
    reading = Reading(mapping, columns, iter(()), path.name if path else data.source)
    every = chain(head, source)
    left = max(0, data.max_rows - start + 1)
    if start > 1:
        every = rows.read_source(path, start) if path else islice(every, start - 1, None)
    reading.conversations = _convert(islice(every, left) if data.max_rows else every, data, reading)
    return reading


def _convert(source: Iterator[rows.Row], data: DataSpec, reading: Reading) -> Iterator[Conversation]:
    for row in source:
        try:
            result = formats.convert(row.values, reading.mapping, data.system_prompt)
        except formats.Dropped as reason:
            reading.dropped[str(reason)] += 1
            yield Conversation(row.number, dropped=str(reason))
            continue
        if isinstance(result, str):
            yield Conversation(row.number, text=result)
        else:
            yield Conversation(row.number, messages=result)


@dataclass(frozen=True)
class Survey:
    """What one pass over a dataset tells: usable rows, dropped rows by reason, and the length of the longest row."""

    rows: int
    dropped: dict[str, int]
    longest_characters: int

    def longest_tokens(self, max_length: int) -> int:
        """A cautious guess at the longest row in tokens: three characters a token, at most ``max_length``."""
        return min(max_length, self.longest_characters // 3 + 32)


def survey(data: DataSpec, split: str | None = None) -> Survey:
    """Read a dataset once, without a tokenizer.

    Raises:
        StudioError: it cannot be read, or no row can be trained on.
    """
    reading = read_conversations(data, split)
    rows, longest, first = 0, 0, {}
    for conversation in reading.conversations:
        if conversation.dropped:
            first.setdefault(conversation.dropped, conversation.row)
            continue
        rows += 1
        turns = (
            [conversation.text or ""]
            if conversation.messages is None
            else [m["content"] for m in conversation.messages]
        )
        longest = max(longest, sum(map(len, turns)) + 8 * len(turns))
    if not rows:
        raise nothing_left(reading, first)
    return Survey(rows, dict(reading.dropped), longest)


def nothing_left(reading: Reading, first: dict[str, int]) -> StudioError:
    """The refusal of a dataset without a usable row; ``first`` has the first row of each reason."""
    reasons = "; ".join(f"{n} x {why} (first in row {first[why]})" for why, n in reading.dropped.most_common(3))
    return StudioError(
        f"No row of {reading.source} can be trained on: {reasons or 'it has no rows'}.",
        f"It was read as {formats.SHAPES[reading.mapping.format].title}; choose another format or other columns, "
        "or mend the rows.",
        field="data.source",
    )


def load_conversations(data: DataSpec, split: str | None = None) -> datasets.Dataset:
    """The whole dataset as canonical conversations, on disk and memory-mapped; dropped rows are left out.

    Columns: ``row`` (int, the row's number in the source), ``messages`` (list of ``{"role", "content"}``) and, for
    plain text, ``text``; the one that does not apply is None. Kept in the workspace, by the identity of the source and
    the settings.

    Raises:
        StudioError: the source cannot be read, or no row is left.
    """
    import datasets

    split = split or data.split
    path = locate(data, split)
    identity = files.identity(path) if path else hub.identity(data)
    settings = {**data.model_dump(mode="json"), "split": split}
    for unrelated in ("max_length", "train_on", "holdout", "chat_template", "eval_split"):
        del settings[unrelated]
    turn = {"role": datasets.Value("string"), "content": datasets.Value("string")}
    features = {"row": datasets.Value("int64"), "messages": datasets.List(turn), "text": datasets.Value("string")}
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        return datasets.Dataset.from_generator(
            _generate,
            features=datasets.Features(features),
            gen_kwargs={"settings": json.dumps(settings, sort_keys=True), "split": split, "identity": str(identity)},
            cache_dir=str(Workspace.current().datasets / "cache"),
        )
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, StudioError):
            raise error.__cause__ from None
        raise
    finally:
        if bars:
            datasets.enable_progress_bars()


def _generate(settings: str, split: str, identity: str) -> Iterator[dict[str, Any]]:
    """Rows for ``Dataset.from_generator``; ``identity`` is there to be part of its cache key."""
    spec = {k: v for k, v in json.loads(settings).items() if k != "split"}
    reading = read_conversations(DataSpec(**spec), split)
    first: dict[str, int] = {}
    kept = 0
    for conversation in reading.conversations:
        if conversation.dropped:
            first.setdefault(conversation.dropped, conversation.row)
            continue
        kept += 1
        yield {"row": conversation.row, "messages": conversation.messages, "text": conversation.text}
    if not kept:
        raise nothing_left(reading, first)


def content_hash(row: dict[str, Any], seed: int = 0) -> int:
    """64 bits of sha256 over a conversation's content and a seed."""
    content = row.get("messages") or row.get("text")
    text = f"{seed}:{json.dumps(content, ensure_ascii=False, sort_keys=True)}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def fingerprint(dataset: datasets.Dataset) -> str:
    """sha256 over the canonical conversations, in order."""
    digest = hashlib.sha256()
    for row in dataset:
        digest.update(content_hash(row).to_bytes(8, "big"))
    return digest.hexdigest()


def held_out_limit(hashes: list[int], holdout: float) -> int | None:
    """Rows whose hash is smaller are held out; None if there are none to hold out."""
    if holdout <= 0 or len(set(hashes)) < 2:
        return None
    return min(max(int(holdout * 2**64), min(hashes) + 1), max(hashes))


def split_conversations(
    dataset: datasets.Dataset, holdout: float, seed: int
) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """Training and held-out rows; about ``holdout`` of all, at least one of each if there are two different rows.

    A row is held out by the hash of its content and the seed, so adding rows moves none from one side to the other, and
    equal rows are always on the same side.
    """
    hashes = [content_hash(row, seed) for row in dataset] if holdout > 0 else []
    limit = held_out_limit(hashes, holdout)
    if limit is None:
        return dataset, None
    return (
        dataset.select([i for i, h in enumerate(hashes) if h >= limit]),
        dataset.select([i for i, h in enumerate(hashes) if h < limit]),
    )


def load_evaluation(data: DataSpec, seed: int) -> datasets.Dataset:
    """The rows that ``evaluate`` scores: the dataset's own test split if it has one, otherwise the held-out rows.

    Raises:
        StudioError: there is neither.
    """
    if data.eval_split != "auto":
        return load_conversations(data.model_copy(update={"max_rows": 0}), data.eval_split)
    if "test" in splits(data) and data.split != "test":
        return load_conversations(data.model_copy(update={"max_rows": 0}), "test")
    held_out = split_conversations(load_conversations(data), data.holdout, seed)[1]
    if held_out is None:
        raise StudioError(
            "There are no held-out rows to score: the dataset has no test split and data.holdout is 0.",
            "Set data.holdout, or name a split in data.eval_split, and train again.",
            field="data.holdout",
        )
    return held_out


def splits(data: DataSpec) -> list[str]:
    """The names of a dataset's splits; a single file has one, ``train``."""
    if data.source.startswith("builtin/"):
        return sorted(p.stem for p in locate(data, "train").parent.glob("*.jsonl"))
    return ["train"] if locate(data, data.split) else hub.splits(data)
