"""Which shape a dataset's rows have, found from the first few of them, and the reason in words."""

from __future__ import annotations

from typing import Any

from studio.data.formats import LABELLED, SHAPES, Mapping, Shape, verdict
from studio.errors import StudioError


def _looks(value: Any, keys: set[str]) -> bool:
    return isinstance(value, list) and any(isinstance(turn, dict) and keys <= set(turn) for turn in value)


def _columns(shape: Shape, names: dict[str, str], chosen: dict[str, str]) -> dict[str, str] | None:
    """Part -> column for a shape, or None if a required part has no column. ``names``: lower case -> real name."""
    found: dict[str, str] = {}
    for part, candidates in {**shape.required, **shape.optional}.items():
        column = chosen.get(part)
        if column is None:
            column = next((names[c] for c in candidates if c in names and names[c] not in found.values()), "")
        if column:
            found[part] = column
        elif part in shape.required:
            return None
    return found


def detect(
    rows: list[dict[str, Any]],
    format: str = "auto",
    chosen: dict[str, str] | None = None,
    task: str = "causal_lm",
) -> Mapping:
    """Which shape the rows have, from the first few of them; ``format`` and ``chosen`` columns are obeyed if given.

    Args:
        task: with ``seq_cls`` the rows must have a text and a label.

    Raises:
        StudioError: no known shape fits, or a chosen column is not there; names the columns that are.
    """
    chosen = chosen or {}
    real = list(dict.fromkeys(name for row in rows for name in row))
    names = {name.lower(): name for name in reversed(real)}
    have = f"The columns are: {', '.join(real) or 'none'}."
    for part, column in chosen.items():
        if column and column not in real:
            raise StudioError(
                f"data.columns.{part} names {column!r}, which is not a column.", have, field=f"data.columns.{part}"
            )
    if task == "seq_cls":
        return _classes(rows, names, real, format, chosen)
    if format != "auto":
        shape = SHAPES[format]
        columns = _columns(shape, names, chosen)
        unknown = [part for part in chosen if part not in {**shape.required, **shape.optional}]
        if unknown:
            parts = ", ".join({**shape.required, **shape.optional})
            raise StudioError(
                f"The {shape.title} format has no part {unknown[0]!r}.",
                f"Its parts are: {parts}.",
                field="data.columns",
            )
        if columns is None:
            missing = [p for p, cs in shape.required.items() if not chosen.get(p) and not any(c in names for c in cs)]
            raise StudioError(
                f"The {shape.title} format needs a column for {', '.join(missing) or 'each part'}.",
                f"{have} Set data.columns, or another data.format.",
                field="data.format",
            )
        return Mapping(format, columns, _said(f"Read as {shape.title}, as chosen.", shape, real))
    if "input_ids" in names and set(chosen) <= {"input_ids", "labels", "mask"}:
        shape = SHAPES["tokenized"]
        columns = _columns(shape, names, chosen)
        if columns and _ids(next((row.get(columns["input_ids"]) for row in rows), None)):
            return Mapping("tokenized", columns, _said("Already tokenised: found the column 'input_ids'.", shape, real))
    if kind := _preferred(rows, names, chosen):
        shape = SHAPES[kind]
        columns = _columns(shape, names, chosen) or {}
        listed = ", ".join(repr(columns[part]) for part in columns)
        return Mapping(kind, columns, _said(f"{shape.title.capitalize()}: found the columns {listed}.", shape, real))
    for name in real:  # a column of turns settles it, whatever it is called
        if name in ("chosen", "rejected", "tools", "history"):
            continue
        for kind, part, keys in (
            ("messages", "messages", {"role", "content"}),
            ("sharegpt", "conversations", {"from", "value"}),
        ):
            if (
                any(_looks(row.get(name), keys) for row in rows)
                and not (chosen and part not in chosen)
                and "completion" not in names
            ):
                columns = _columns(SHAPES[kind], names, {part: name, **chosen}) or {part: name}
                turn = " and ".join(sorted(keys))
                why = f"{SHAPES[kind].title}: the column {name!r} holds turns with {turn}."
                return Mapping(kind, columns, _said(why, SHAPES[kind], real))
    for kind in ("alpaca", "prompt_completion", "question_answer", "classification", "text"):
        shape = SHAPES[kind]
        if chosen and not set(chosen) <= {*shape.required, *shape.optional}:
            continue
        columns = _columns(shape, names, chosen)
        if columns and (kind != "classification" or _labelled(rows, columns["label"])):
            listed = ", ".join(repr(columns[part]) for part in columns)
            why = f"{shape.title}: found the column{'s'[: len(columns) > 1]} {listed}."
            return Mapping(kind, columns, _said(why, shape, real))
    raise StudioError(
        "The shape of the rows is not known.",
        f"{have} Choose a format, and which column plays which part.",
        field="data.format",
    )


def _classes(
    rows: list[dict[str, Any]], names: dict[str, str], real: list[str], format: str, chosen: dict[str, str]
) -> Mapping:
    """The columns with the text and its class.

    Raises:
        StudioError: there are none, or the rows are meant for another task.
    """
    have = f"The columns are: {', '.join(real) or 'none'}."
    how = f"{have} Name two of them in data.columns, as in {{text: question, label: topic}}"
    if format not in ("auto", "classification"):
        raise StudioError(
            f"A classifier learns from a text and its class, and data.format is {format}.",
            f"Set data.format to classification. {how}; or set model.task to causal_lm.",
            field="data.format",
        )
    if unknown := [part for part in chosen if part not in LABELLED.required]:
        raise StudioError(
            f"The text classification format has no part {unknown[0]!r} when classes are learnt.",
            f"Its parts are: {', '.join(LABELLED.required)}.",
            field="data.columns",
        )
    columns = _columns(LABELLED, names, chosen)
    if columns is None:
        turns = next((n for n in real if any(_turns(row.get(n)) for row in rows)), None)
        what = f"These rows are conversations (the column {turns!r})" if turns else "These rows have no label"
        missing = [p for p, cs in LABELLED.required.items() if not chosen.get(p) and not any(c in names for c in cs)]
        raise StudioError(
            f"{what}, and a classifier learns from a text and its class: no column was found for "
            f"{' and '.join(missing) or 'each of the two'}.",
            f"{how}; or set model.task to causal_lm.",
            field="data.columns",
        )
    if not _labelled([{"label": one} for row in rows for one in _each(row.get(columns["label"]))], "label"):
        raise StudioError(
            f"The column {columns['label']!r} holds no classes: they are short texts or numbers, or lists of them.",
            f"{how}.",
            field="data.columns.label",
        )
    listed = ", ".join(repr(column) for column in columns.values())
    return Mapping("classification", columns, _said(f"{LABELLED.title}: found the columns {listed}.", LABELLED, real))


def _turns(value: Any) -> bool:
    return _looks(value, {"role", "content"}) or _looks(value, {"from", "value"})


def _each(label: Any) -> list[Any]:
    return label if isinstance(label, list) else [label]


def _labelled(rows: list[dict[str, Any]], column: str) -> bool:
    """Whether a column holds what could be a label: one short text or number a row."""
    labels = [row.get(column) for row in rows if row.get(column) is not None]
    return bool(labels) and all(isinstance(label, (str, int, float)) and len(str(label)) <= 80 for label in labels)


def _ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], int)


def _preferred(rows: list[dict[str, Any]], names: dict[str, str], chosen: dict[str, str]) -> str | None:
    """The kind of preference that the rows state, if they do: two answers, or one with a verdict of true or false."""
    for kind in ("preference", "unpaired_preference"):
        shape = SHAPES[kind]
        if set(chosen) <= {*shape.required, *shape.optional} and (columns := _columns(shape, names, chosen)):
            labels = [row.get(columns["label"]) for row in rows] if "label" in columns else [True]
            known = [label for label in labels if label is not None]
            if known and all(verdict(label) is not None for label in known):
                return kind
    return None


def _said(why: str, shape: Shape, real: list[str]) -> str:
    unread = "tools" in real and "tools" not in shape.optional
    tools = "The column 'tools' is not used by this format." if unread else ""
    return " ".join(part for part in (why, shape.note, tools) if part)
