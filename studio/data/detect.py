"""Which shape a dataset's rows have, found from the first few of them, and the reason in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from studio.data import multiple_choice
from studio.data.formats import LABELLED, SHAPES, Mapping, Shape, verdict
from studio.data.turns import TURN_KEYS
from studio.errors import StudioError

_TURNS = ({"role", "content"}, {"from", "value"}, {"role", "value"}, {"from", "content"}, {"role", "text"})
_PLAIN = ("alpaca", "multiple_choice", "prompt_completion", "question_answer", "classification", "text")


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
        StudioError: no known shape fits, a chosen column is not there, or the format has no such part; names the
            columns or the parts that there are.
    """
    chosen = chosen or {}
    real = list(dict.fromkeys(name for row in rows for name in row))
    names = {name.lower().strip(): name for name in reversed(real)}
    for part, column in chosen.items():
        if column and column not in real:
            raise StudioError(
                f"data.columns.{part} names {column!r}, which is not a column.",
                _have(real),
                field=f"data.columns.{part}",
                code="unknown_column",
            )
    if task == "seq_cls":
        mapping = _classes(rows, names, real, format, chosen)
    elif format != "auto":
        mapping = _as_chosen(rows, names, real, format, chosen)
    else:
        mapping = _found(rows, names, real, chosen)
    return replace(mapping, unused=tuple(unused_columns(rows, mapping.columns.values())))


def unused_columns(rows: list[dict[str, Any]], used: Any) -> list[str]:
    """Return what the rows hold that is not read: columns, and keys of turns as ``messages[].key``."""
    taken = set(used)
    found: dict[str, None] = {}
    for row in rows:
        for name, value in row.items():
            if name not in taken:
                found[name] = None
            elif isinstance(value, list) and value and isinstance(value[0], dict):
                found |= dict.fromkeys(f"{name}[].{key}" for key in _unused_keys(value))
    return list(found)


def _unused_keys(turns: list) -> list[str]:
    """Return the keys of turns that are not read and hold something; none for a list of anything else."""
    return [
        key
        for turn in turns
        if isinstance(turn, dict) and ("role" in turn or "from" in turn)
        for key, value in turn.items()
        if key not in TURN_KEYS and value is not None
    ]


def _have(real: list[str]) -> str:
    return f"The columns are: {', '.join(real) or 'none'}."


def _looks(value: Any, keys: set[str]) -> bool:
    return isinstance(value, list) and any(isinstance(turn, dict) and keys <= set(turn) for turn in value)


def _turns(value: Any) -> bool:
    return any(_looks(value, keys) for keys in _TURNS)


def _columns(
    shape: Shape, names: dict[str, str], chosen: dict[str, str], rows: list[dict[str, Any]]
) -> dict[str, str] | None:
    """Part -> column for a shape, or None if a required part has no column. ``names``: lower case -> real name."""
    found: dict[str, str] = {}
    for part, candidates in {**shape.required, **shape.optional}.items():
        column = chosen.get(part)
        if column is None:
            usual = (names[c] for c in candidates if c in names and names[c] not in found.values())
            column = next((name for name in usual if part != "system" or _holds_text(rows, name)), "")
        if column:
            found[part] = column
        elif part in shape.required:
            return None
    return found


def _holds_text(rows: list[dict[str, Any]], column: str) -> bool:
    return all(isinstance(row.get(column), (str, float, type(None))) for row in rows)


def _refuse_unknown(shape: Shape, chosen: dict[str, str]) -> None:
    """Refuse a chosen part that the format does not have."""
    parts = {**shape.required, **shape.optional}
    if unknown := [part for part in chosen if part not in parts]:
        raise StudioError(
            f"The {shape.title} format has no part {unknown[0]!r}.",
            f"Its parts are: {', '.join(parts)}.",
            field="data.columns",
            code="unknown_part",
        )


def _as_chosen(
    rows: list[dict[str, Any]], names: dict[str, str], real: list[str], format: str, chosen: dict[str, str]
) -> Mapping:
    """The columns for the format that the recipe names."""
    shape = SHAPES[format]
    _refuse_unknown(shape, chosen)
    columns = _columns(shape, names, chosen, rows)
    if columns is None:
        missing = [p for p, cs in shape.required.items() if not chosen.get(p) and not any(c in names for c in cs)]
        raise StudioError(
            f"The {shape.title} format needs a column for {', '.join(missing) or 'each part'}.",
            f"{_have(real)} Set data.columns, or another data.format.",
            field="data.format",
        )
    return _mapped(format, columns, f"Read as {shape.title}, as chosen.", rows, names)


def _found(rows: list[dict[str, Any]], names: dict[str, str], real: list[str], chosen: dict[str, str]) -> Mapping:
    """The format that fits the rows and the chosen columns.

    Raises:
        StudioError: none does. A part that no fitting format has is named, with the parts of the one that fits best.
    """
    if mapping := _fitting(rows, names, real, chosen):
        return mapping
    everywhere = {part for shape in SHAPES.values() for part in (*shape.required, *shape.optional)}
    for known in ({p: c for p, c in chosen.items() if p in everywhere}, {}):
        if len(known) < len(chosen) and (mapping := _fitting(rows, names, real, known)):
            _refuse_unknown(SHAPES[mapping.format], chosen)
    if unknown := [part for part in chosen if part not in everywhere]:
        raise StudioError(
            f"No format has a part {unknown[0]!r}.",
            f"Choose a format; the parts of all formats are: {', '.join(sorted(everywhere))}.",
            field="data.columns",
            code="unknown_part",
        )
    raise StudioError(
        "Unrecognised format.",
        f"{_have(real)} Choose a format, then map your columns.",
        field="data.format",
        code="unknown_format",
    )


def _fitting(
    rows: list[dict[str, Any]], names: dict[str, str], real: list[str], chosen: dict[str, str]
) -> Mapping | None:
    """The format whose parts include all chosen ones and whose required parts have columns, the surest sign first."""

    def fits(kind: str) -> dict[str, str] | None:
        shape = SHAPES[kind]
        if not set(chosen) <= {*shape.required, *shape.optional}:
            return None
        return _columns(shape, names, chosen, rows)

    columns = fits("tokenized") if "input_ids" in names else None
    if columns and _ids(next((row.get(columns["input_ids"]) for row in rows), None)):
        return _mapped("tokenized", columns, "Already tokenised: found the column 'input_ids'.", rows, names)
    for kind in ("preference", "unpaired_preference"):
        if (columns := fits(kind)) and _has_verdicts(rows, columns):
            listed = ", ".join(repr(columns[part]) for part in columns)
            why = f"{SHAPES[kind].title.capitalize()}: found the columns {listed}."
            return _mapped(kind, columns, why, rows, names)
    for name in real:  # a column of turns settles it, whatever it is called
        if name in ("chosen", "rejected", "tools", "history") or "completion" in names:
            continue
        keys = next((keys for keys in _TURNS if any(_looks(row.get(name), keys) for row in rows)), None)
        from_named = "conversations" in chosen or ("messages" not in chosen and keys and "from" in keys)
        kind, part = ("sharegpt", "conversations") if from_named else ("messages", "messages")
        shape = SHAPES[kind]
        known = set(chosen) <= {*shape.required, *shape.optional} and chosen.get(part, name) == name
        if keys and known:
            columns = _columns(shape, names, {part: name, **chosen}, rows) or {part: name}
            why = f"{shape.title}: the column {name!r} holds turns with {' and '.join(sorted(keys))}."
            return _mapped(kind, columns, why, rows, names)
    for kind in _PLAIN:
        columns = fits(kind)
        if not columns or (kind == "classification" and not _labelled(rows, columns["label"])):
            continue
        if kind == "multiple_choice" and not _answers_choices(rows, columns):
            continue
        if kind == "question_answer" and "answer" not in chosen:
            columns = _longer_answer(rows, names, columns)
        listed = ", ".join(repr(columns[part]) for part in columns)
        why = f"{SHAPES[kind].title}: found the column{'s'[: len(columns) > 1]} {listed}."
        return _mapped(kind, columns, why, rows, names)
    return None


def _longer_answer(rows: list[dict[str, Any]], names: dict[str, str], columns: dict[str, str]) -> dict[str, str]:
    """Take ``solution`` instead of ``answer`` where a dataset has both and the solution is the longer text.

    Datasets of mathematics have the worked solution and, beside it, its result as a short answer.
    """
    solution = names.get("solution")
    if solution is None or columns["answer"].lower().strip() != "answer" or solution in columns.values():
        return columns
    sizes = [sum(len(str(row.get(column) or "")) for row in rows) for column in (columns["answer"], solution)]
    return {**columns, "answer": solution} if sizes[1] >= sizes[0] else columns


def _answers_choices(rows: list[dict[str, Any]], columns: dict[str, str]) -> bool:
    """Whether the columns are a question with choices and an answer that names one of them, in one row at least."""
    first, _ = multiple_choice.first_index(_choice_pairs(rows, columns))
    for value, answer in _choice_pairs(rows, columns):
        found = multiple_choice.choices_of(value)
        if (
            found
            and not isinstance(answer, (list, dict))
            and multiple_choice.position(answer, *found, first) is not None
        ):
            return True
    return False


def _choice_pairs(rows: list[dict[str, Any]], columns: dict[str, str]) -> list[tuple[Any, Any]]:
    return [(row.get(columns["choices"]), row.get(columns["answer"])) for row in rows]


def _mapped(
    kind: str,
    columns: dict[str, str],
    why: str,
    rows: list[dict[str, Any]],
    names: dict[str, str],
) -> Mapping:
    """The mapping, with what a person should know about it in ``why``."""
    shape = SHAPES[kind]
    said = [why, shape.note]
    if "tools" in names and "tools" not in shape.optional:
        said.append("The column 'tools' is not used by this format.")
    first = 0
    if kind == "question_answer" and columns["answer"] == names.get("solution") and "answer" in names:
        said.append(f"{columns['answer']!r} is trained as the answer; {names['answer']!r} is not used.")
    if kind == "multiple_choice":
        first, certain = multiple_choice.first_index(_choice_pairs(rows, columns))
        if not certain:
            said.append("The numbers in the answers are read as positions from 0.")
    return Mapping(kind, columns, " ".join(part for part in said if part), first_index=first)


def _classes(
    rows: list[dict[str, Any]], names: dict[str, str], real: list[str], format: str, chosen: dict[str, str]
) -> Mapping:
    """The columns with the text and its class.

    Raises:
        StudioError: there are none, or the rows are meant for another task.
    """
    how = f"{_have(real)} Name two of them in data.columns, as in {{text: question, label: topic}}"
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
            code="unknown_part",
        )
    columns = _columns(LABELLED, names, chosen, rows)
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
    why = f"{LABELLED.title}: found the columns {listed}. {LABELLED.note}"
    unread = " The column 'tools' is not used by this format." if "tools" in real else ""
    return Mapping("classification", columns, f"{why}{unread}")


def _each(label: Any) -> list[Any]:
    return label if isinstance(label, list) else [label]


def _labelled(rows: list[dict[str, Any]], column: str) -> bool:
    """Whether a column holds what could be a label: one short text or number a row."""
    labels = [row.get(column) for row in rows if row.get(column) is not None]
    return bool(labels) and all(isinstance(label, (str, int, float)) and len(str(label)) <= 80 for label in labels)


def _ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], int)


def _has_verdicts(rows: list[dict[str, Any]], columns: dict[str, str]) -> bool:
    """Whether rows state a preference: two answers, or one with a verdict of true or false."""
    labels = [row.get(columns["label"]) for row in rows] if "label" in columns else [True]
    known = [label for label in labels if label is not None]
    return bool(known) and all(verdict(label) is not None for label in known)
