"""Rows of any known shape to canonical conversations: which columns play which part, and how they become messages.

The shapes are those that the field's datasets come in: OpenAI ``messages``, ShareGPT, Alpaca
(https://github.com/tatsu-lab/stanford_alpaca), TRL's prompt/completion, question/answer, plain text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
    note: str = ""  # what a person should know about what is trained on


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
        if turn.get("tool_calls"):
            raise Dropped(f"turn {index} has tool_calls, which the studio does not render yet")
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


def _preference(parts: dict[str, Any]) -> Messages:
    """The conversation that was preferred; the prompt may be a part of it (TRL's implicit prompt) or stand apart."""
    chosen = _answer(parts["chosen"], "chosen")
    prompt = parts.get("prompt")
    if any(message["role"] == "user" for message in chosen):
        messages = chosen
    elif isinstance(prompt, list):
        messages = [*_any_turns(prompt, "prompt"), *chosen]
    else:
        text = _text(prompt, "prompt")
        if not text.strip():
            raise Dropped("prompt is empty")
        messages = [{"role": "user", "content": text}, *chosen]
    system = _text(parts.get("system"), "system")
    return [{"role": "system", "content": system}, *messages] if system else messages


def verdict(value: Any) -> bool | None:
    """A label as true or false, also if it is 0 or 1 or text as in a CSV; None if it is neither."""
    return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(str(value).lower())


def _unpaired_preference(parts: dict[str, Any]) -> Messages:
    wanted = verdict(parts["label"])
    if wanted is None:
        raise Dropped(f"its label is {str(parts['label'])[:40]!r}, neither true nor false")
    if not wanted:
        raise Dropped("its answer is marked as unwanted")
    return _preference({"prompt": parts["prompt"], "chosen": parts["completion"], "system": parts.get("system")})


def _answer(value: Any, part: str) -> Messages:
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list) and value and isinstance(value[0], dict) and "type" not in value[0]:
        return _any_turns(value, part)
    return [{"role": "assistant", "content": _text(value, part)}]


def _any_turns(turns: list, part: str) -> Messages:
    named = isinstance(turns[0], dict) and "from" in turns[0] if turns else False
    return _turns(turns, *(("from", "value") if named else ("role", "content")), part)


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
    "preference": Shape(
        "preference (chosen and rejected)",
        {"chosen": ("chosen",), "rejected": ("rejected",)},
        _preference,
        {"prompt": ("prompt", "question", "instruction", "input", "conversations", "messages"), **_SYSTEM},
        note="The chosen answers are trained on; the rejected ones are not used.",
    ),
    "unpaired_preference": Shape(
        "unpaired preference (answers with a verdict)",
        {"prompt": ("prompt", "question"), "completion": ("completion", "response"), "label": ("label",)},
        _unpaired_preference,
        _SYSTEM,
        note="The wanted answers are trained on; the unwanted ones are left out.",
    ),
}


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
