"""Rows of any known shape to canonical conversations: which columns play which part, and how they become messages.

The shapes are those that the field's datasets come in: OpenAI ``messages``, ShareGPT, Alpaca
(https://github.com/tatsu-lab/stanford_alpaca), TRL's prompt/completion, question/answer, plain text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from studio.errors import StudioError

Messages = list[dict[str, str]]

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}


class Dropped(Exception):
    """A row that cannot be trained on; the message is the reason, as a clause ("no assistant turn")."""


@dataclass(frozen=True)
class Shape:
    """A format: the parts it needs and may have, the column names they usually go by, and the conversion."""

    title: str
    required: dict[str, tuple[str, ...]]
    convert: Callable[[dict[str, Any]], Messages | str]
    optional: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Mapping:
    """What was found: the format, part -> column, and one sentence that says why."""

    format: str
    columns: dict[str, str]
    why: str


def _text(value: Any, part: str) -> str:
    """A column's value as text. Typed content (``[{"type": "text", "text": ...}]``) is joined."""
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(item, dict) and item.get("type") == "text" for item in value):
        value = "".join(str(item.get("text") or "") for item in value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:  # JSON can write one half of a surrogate pair, UTF-8 cannot
            raise Dropped(f"{part} holds half a character") from error
        return value
    if isinstance(value, (int, float, bool)):
        return str(value)
    raise Dropped(f"{part} is a {type(value).__name__}, not text")


def _turns(turns: Any, role_key: str, content_key: str, part: str) -> Messages:
    if not isinstance(turns, list) or not turns:
        raise Dropped(f"{part} is empty" if not turns else f"{part} is not a list of turns")
    messages = []
    for index, turn in enumerate(turns, 1):
        if not isinstance(turn, dict):
            raise Dropped(f"turn {index} is not an object")
        name = turn.get(role_key)
        role = ROLES.get(str(name).lower()) if name is not None else None
        if role is None:
            raise Dropped(f"turn {index} has no known role ({name!r})" if name else f"turn {index} has no role")
        messages.append({"role": role, "content": _text(turn.get(content_key), f"turn {index}")})
    return messages


def _pair(system: str, user: str, assistant: str) -> Messages:
    messages = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def _messages(parts: dict[str, Any]) -> Messages:
    return _turns(parts["messages"], "role", "content", "messages")


def _sharegpt(parts: dict[str, Any]) -> Messages:
    messages = _turns(parts["conversations"], "from", "value", "conversations")
    system = _text(parts.get("system"), "system")
    return [{"role": "system", "content": system}, *messages] if system else messages


def _alpaca(parts: dict[str, Any]) -> Messages:
    instruction, extra = _text(parts["instruction"], "instruction"), _text(parts.get("input"), "input")
    if not instruction.strip():
        raise Dropped("instruction is empty")
    user = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    messages = _pair(_text(parts.get("system"), "system"), user, _text(parts["output"], "output"))
    history = parts.get("history") or []
    if not isinstance(history, list) or not all(isinstance(h, (list, tuple)) and len(h) == 2 for h in history):
        raise Dropped("history is not a list of [question, answer] pairs")
    earlier = [
        m for question, answer in history for m in _pair("", _text(question, "history"), _text(answer, "history"))
    ]
    return [*messages[:-2], *earlier, *messages[-2:]]


def _prompt_completion(parts: dict[str, Any]) -> Messages:
    prompt, completion = parts["prompt"], parts["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return _turns([*prompt, *completion], "role", "content", "prompt and completion")
    prompt = _text(prompt, "prompt")
    if not prompt.strip():
        raise Dropped("prompt is empty")
    return _pair(_text(parts.get("system"), "system"), prompt, _text(completion, "completion"))


def _question_answer(parts: dict[str, Any]) -> Messages:
    question = _text(parts["question"], "question")
    if not question.strip():
        raise Dropped("question is empty")
    context = _text(parts.get("context"), "context")
    user = f"{context}\n\n{question}" if context.strip() else question
    return _pair(_text(parts.get("system"), "system"), user, _text(parts["answer"], "answer"))


def _plain(parts: dict[str, Any]) -> str:
    text = _text(parts["text"], "text")
    if not text.strip():
        raise Dropped("text is empty")
    return text


_SYSTEM = {"system": ("system", "system_prompt")}
SHAPES: dict[str, Shape] = {
    "messages": Shape(
        "OpenAI messages", {"messages": ("messages", "conversation", "conversations", "chat")}, _messages
    ),
    "sharegpt": Shape(
        "ShareGPT", {"conversations": ("conversations", "conversation", "messages")}, _sharegpt, {"system": ("system",)}
    ),
    "alpaca": Shape(
        "Alpaca",
        {"instruction": ("instruction",), "output": ("output", "response", "answer", "completion")},
        _alpaca,
        {"input": ("input", "context"), "history": ("history",), **_SYSTEM},
    ),
    "prompt_completion": Shape(
        "prompt and completion",
        {"prompt": ("prompt", "inputs"), "completion": ("completion", "response", "chosen", "targets")},
        _prompt_completion,
        _SYSTEM,
    ),
    "question_answer": Shape(
        "question and answer",
        {
            "question": ("question", "query", "problem", "input", "user", "text"),
            "answer": ("answer", "response", "solution", "output", "assistant", "label", "summary"),
        },
        _question_answer,
        {"context": ("context", "passage"), **_SYSTEM},
    ),
    "text": Shape("plain text", {"text": ("text", "content")}, _plain),
}


def _looks(value: Any, keys: set[str]) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and keys <= set(value[0])


def _columns(shape: Shape, names: dict[str, str], chosen: dict[str, str]) -> dict[str, str] | None:
    """Part -> column for a shape, or None if a required part has no column. ``names``: lower case -> real name."""
    found: dict[str, str] = {}
    for part, candidates in {**shape.required, **shape.optional}.items():
        column = chosen.get(part) or next(
            (names[c] for c in candidates if c in names and names[c] not in found.values()), ""
        )
        if column:
            found[part] = column
        elif part in shape.required:
            return None
    return found


def detect(rows: list[dict[str, Any]], format: str = "auto", chosen: dict[str, str] | None = None) -> Mapping:
    """Which shape the rows have, from the first few of them; ``format`` and ``chosen`` columns are obeyed if given.

    Raises:
        StudioError: no known shape fits, or a chosen column is not there; names the columns that are.
    """
    chosen = chosen or {}
    real = list(dict.fromkeys(name for row in rows for name in row))
    names = {name.lower(): name for name in reversed(real)}
    have = f"The columns are: {', '.join(real) or 'none'}."
    for part, column in chosen.items():
        if column not in real:
            raise StudioError(
                f"data.columns.{part} names {column!r}, which is not a column.", have, field=f"data.columns.{part}"
            )
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
        return Mapping(format, columns, f"Read as {shape.title}, as chosen.")
    for name in real:  # a column of turns settles it, whatever it is called
        value = next((row[name] for row in rows if row.get(name)), None)
        if name in ("chosen", "rejected", "tools", "history"):
            continue
        for kind, part, keys in (
            ("messages", "messages", {"role", "content"}),
            ("sharegpt", "conversations", {"from", "value"}),
        ):
            if _looks(value, keys) and not (chosen and part not in chosen) and "completion" not in names:
                columns = _columns(SHAPES[kind], names, {part: name, **chosen}) or {part: name}
                turn = " and ".join(sorted(keys))
                return Mapping(kind, columns, f"{SHAPES[kind].title}: the column {name!r} holds turns with {turn}.")
    for kind in ("alpaca", "prompt_completion", "question_answer", "text"):
        if chosen and not set(chosen) <= {*SHAPES[kind].required, *SHAPES[kind].optional}:
            continue
        columns = _columns(SHAPES[kind], names, chosen)
        if columns:
            listed = ", ".join(repr(columns[part]) for part in columns)
            return Mapping(kind, columns, f"{SHAPES[kind].title}: found the column{'s'[: len(columns) > 1]} {listed}.")
    raise StudioError(
        "The shape of the rows is not known.",
        f"{have} Choose a format, and which column plays which part.",
        field="data.format",
    )


def convert(values: dict[str, Any], mapping: Mapping, system_prompt: str | None = None) -> Messages | str:
    """One row as canonical messages (``role`` and ``content``), or as plain text for the ``text`` format.

    Raises:
        Dropped: the row cannot be trained on; says why.
    """
    shape = SHAPES[mapping.format]
    parts = {part: values.get(column) for part, column in mapping.columns.items()}
    missing = [part for part in shape.required if parts.get(part) is None]
    if missing:
        raise Dropped(f"{mapping.columns.get(missing[0], missing[0])} is missing")
    result = shape.convert(parts)
    if isinstance(result, str):
        return result
    if not any(m["role"] == "assistant" for m in result):
        raise Dropped("no assistant turn")
    if not any(m["content"].strip() for m in result if m["role"] == "assistant"):
        raise Dropped("the assistant's answer is empty")
    if system_prompt and result[0]["role"] != "system":
        result = [{"role": "system", "content": system_prompt}, *result]
    return result
