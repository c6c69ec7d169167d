"""A dataset as canonical conversations: read lazily for a preview, or whole for training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from studio.data import formats, sources
from studio.data.detect import unused_columns
from studio.data.files import Row
from studio.data.scalars import without_table_nulls
from studio.data.split import content_hash, is_held_out
from studio.data.turns import RowRejected, without_reasoning
from studio.errors import StudioError
from studio.recipe import DataSpec

_NAMED_COLUMNS = 40  # that a note names


@dataclass(frozen=True)
class Conversation:
    """One row after conversion.

    Attributes:
        row: its number in the source; ``where`` says which file and row that is, if there are several sources.
        messages, tools: the conversation and the functions that it may call; or
        text: plain text; with ``label``, its class or the list of its classes, where texts are put into classes; or
        input_ids, labels: tokens that pass through; or
        dropped: why it is left out. ``unwanted`` says that the dataset wants it so and nothing needs mending, and
            ``raw`` is the row as it stands there.
        code: a stable identifier of that reason; empty if it has none.
        copies: how often it is trained on in an epoch (a mixture's weight).
        held_out: whether ``data.holdout_column`` holds it out.
    """

    row: int
    messages: list[dict[str, Any]] | None = None
    text: str | None = None
    dropped: str | None = None
    tools: list[dict] | None = None
    input_ids: list[int] | None = None
    labels: list[int] | None = None
    label: str | list[str] | None = None
    where: str = ""
    unwanted: bool = False
    copies: int = 1
    held_out: bool = False
    raw: dict[str, Any] | None = None
    code: str = ""
    unused: tuple[str, ...] = ()

    def content(self) -> dict[str, Any]:
        """What the encoder takes."""
        return {key: getattr(self, key) for key in ("messages", "text", "tools", "input_ids", "labels", "label")}


@dataclass
class Reading:
    """An open dataset: the mapping and the columns of its first source, all sources, and the conversations.

    Attributes:
        unused: (source, column) -> rows read so far in which a column that is not used holds a value.
    """

    mapping: formats.Mapping
    columns: list[str]
    conversations: Iterator[Conversation]
    source: str
    dropped: Counter = field(default_factory=Counter)
    sources: list[sources.Source] = field(default_factory=list)
    unused: Counter = field(default_factory=Counter)
    holdout_column: str | None = None
    latest_unused: tuple[str, ...] = ()

    def unused_columns(self) -> list[dict[str, Any]]:
        """The columns that are not used, each as ``{"source", "column", "rows"}``.

        They are those of the first rows of each source, and of all rows that have been read; ``rows`` counts the rows
        read so far in which the column holds a value.
        """
        early = [(source.name, column) for source in self.sources for column in source.mapping.unused]
        every = dict.fromkeys([*early, *self.unused])
        return [
            {"source": source, "column": column, "rows": self.unused[source, column]}
            for source, column in every
            if column != self.holdout_column
        ]

    def splits(self) -> list[dict[str, Any]]:
        """The folders of which some files are left out, as ``{"source", "split", "files", "left_out"}``.

        ``left_out`` has the files of each other split.
        """
        taken = [(source.name, source.taken) for source in self.sources if source.taken]
        return [{"source": name, **asdict(one)} for name, one in taken]

    def notes(self) -> list[str]:
        """What is not used of the dataset, in sentences: files of other splits, columns."""
        several = len(self.sources) > 1
        notes = [(source.name, source.taken.in_words()) for source in self.sources if source.taken]
        for source in self.sources:
            if names := [one["column"] for one in self.unused_columns() if one["source"] == source.name]:
                more = f" and {len(names) - _NAMED_COLUMNS:,} more" if len(names) > _NAMED_COLUMNS else ""
                listed = ", ".join(name[:80] for name in names[:_NAMED_COLUMNS])
                notes.append((source.name, f"Columns that are not used: {listed}{more}."))
        return [f"{name}: {note}" if several else note for name, note in notes]


def read_conversations(data: DataSpec, split: str | None = None, start: int = 1, task: str = "causal_lm") -> Reading:
    """Open a dataset and find its shape; rows are then read and converted one by one.

    Args:
        start: the number of the first row that is wanted. The shape is still found from the first rows of all.
        task: the recipe's ``model.task``; with ``seq_cls`` each row is a text with its label.

    Raises:
        StudioError: the source cannot be read, or its shape is not known. Iterating may raise it too, at the row
            where the source is broken.
    """
    if split not in (None, data.split):  # the column says which rows of the training split are held out
        data = data.model_copy(update={"holdout_column": None})
    return _reading(data, *sources.open_all(sources.parts(data, split), start, task), task)


def conversations_at(data: DataSpec, numbers: Iterable[int], task: str = "causal_lm") -> Reading:
    """The same for some rows by their numbers, in ascending order."""
    return _reading(data, *sources.rows_at(sources.parts(data), numbers, task), task)


def _reading(
    data: DataSpec, opened: list[sources.Source], pairs: Iterator[tuple[sources.Source, Row]], task: str
) -> Reading:
    first = opened[0]
    column = data.holdout_column
    if column and not any(column in source.columns for source in opened):
        raise StudioError(
            f"data.holdout_column names {column!r}, which is not a column.",
            f"The columns are: {', '.join(first.columns) or 'none'}.",
            field="data.holdout_column",
        )
    name = first.name if len(opened) == 1 else f"{first.name} and {len(opened) - 1} more"
    reading = Reading(first.mapping, first.columns, iter(()), name, sources=opened, holdout_column=column)
    reading.conversations = (c for c in (_convert(s, row, data, reading, task) for s, row in pairs) if c.copies)
    return reading


def _convert(source: sources.Source, row: Row, data: DataSpec, reading: Reading, task: str) -> Conversation:
    known: dict[str, Any] = {"row": row.number, "where": row.where}
    used = set(source.mapping.columns.values())
    if data.holdout_column:
        known["held_out"] = is_held_out(row.values.get(data.holdout_column))
        used.add(data.holdout_column)
    if unused := tuple(unused_columns([row.values], used)):
        if unused == reading.latest_unused:
            unused = reading.latest_unused  # one tuple for all rows of a wide table
        known["unused"] = reading.latest_unused = unused
        for column in unused:
            reading.unused[source.name, column] += row.values.get(column, True) is not None
    try:
        values = without_table_nulls(row.values) if row.from_table else row.values
        content = formats.convert(values, source.mapping, data.system_prompt, task)
        if data.reasoning == "drop" and content.get("messages"):
            content["messages"] = without_reasoning(content["messages"])
            if not any(
                m["content"].strip() or m.get("tool_calls") for m in content["messages"] if m["role"] == "assistant"
            ):
                raise RowRejected("nothing is left of the answer without its reasoning")
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, RecursionError) as error:
        reason = f"it cannot be read ({type(error).__name__})"  # a shape that nobody has thought of
        reading.dropped[reason] += 1
        return Conversation(**known, dropped=reason, raw=row.values)
    except RowRejected as reason:
        reading.dropped[str(reason)] += 1
        return Conversation(**known, dropped=str(reason), unwanted=reason.wanted, raw=row.values, code=reason.code)
    if source.weight != 1:
        whole, part = divmod(source.weight, 1)
        known["copies"] = int(whole) + (content_hash(content, seed=-1) < part * 2**64)
    return Conversation(**known, **content)


@dataclass(frozen=True)
class Survey:
    """What one pass over a dataset tells.

    Attributes:
        rows: usable rows, a row of a mixture as often as it is used.
        dropped: left-out rows by reason; ``invalid`` those of them that need mending.
        first: the first row of each reason.
        longest_characters: the length of the longest row.
    """

    rows: int
    dropped: dict[str, int]
    longest_characters: int
    invalid: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def longest_tokens(self, max_length: int) -> int:
        """A cautious guess at the longest row in tokens: three characters a token, at most ``max_length``."""
        return min(max_length, self.longest_characters // 3 + 32)


def survey(data: DataSpec, split: str | None = None, task: str = "causal_lm") -> Survey:
    """Read a dataset once, without a tokenizer.

    Raises:
        StudioError: it cannot be read, or no row can be trained on.
    """
    reading = read_conversations(data, split, task=task)
    rows, longest, first, invalid = 0, 0, {}, Counter()
    for conversation in reading.conversations:
        if conversation.dropped:
            first.setdefault(conversation.dropped, place(conversation))
            invalid.update([] if conversation.unwanted else [conversation.dropped])
            continue
        rows += conversation.copies
        longest = max(longest, _characters(conversation))
    if not rows:
        raise nothing_left(reading, first)
    return Survey(rows, dict(reading.dropped), longest, dict(invalid), first)


def _characters(conversation: Conversation) -> int:
    if conversation.messages is None:
        return len(conversation.text or "") + 3 * len(conversation.input_ids or [])
    extra = len(json.dumps(conversation.tools, ensure_ascii=False)) if conversation.tools else 0
    return extra + sum(
        len(m["content"]) + (len(str(m)) - len(m["content"]) if len(m) > 2 else 0) + 8 for m in conversation.messages
    )


def place(conversation: Conversation) -> str:
    """Where a row stands, in words: ``row 7``, or ``more.csv, row 7``."""
    return conversation.where or f"row {conversation.row:,}"


def nothing_left(reading: Reading, first: dict[str, str]) -> StudioError:
    """The refusal of a dataset without a usable row; ``first`` has the first row of each reason."""
    reasons = "; ".join(f"{n} x {why} (first in {first[why]})" for why, n in reading.dropped.most_common(3))
    return StudioError(
        f"No row of {reading.source} can be trained on: {reasons or 'it has no rows'}.",
        f"It was read as {formats.SHAPES[reading.mapping.format].title}; choose another format or other columns, "
        "or mend the rows.",
        field="data.source",
    )


def invalid_rows(invalid: dict[str, int], first: dict[str, str]) -> StudioError:
    """The refusal to train while some rows cannot be trained on; each reason with its number and first row."""
    reasons = "; ".join(f"{n:,} x {why} (first in {first[why]})" for why, n in list(invalid.items())[:3])
    count = sum(invalid.values())
    return StudioError(
        f"{count:,} row{'s'[: count != 1]} cannot be trained on: {reasons}.",
        "Correct them, or set data.invalid_rows to drop.",
        field="data.invalid_rows",
    )


def held_out_source(data: DataSpec) -> DataSpec:
    """The dataset that ``data.holdout_source`` names, read with the same settings."""
    own = {"source": data.holdout_source, "holdout_source": None, "mix": [], "skip_rows": 0, "max_rows": 0}
    own |= {"config": None, "data_dir": None, "revision": None, "split": "train"}
    return data.model_copy(update=own)
