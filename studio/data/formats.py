"""Rows of any known shape to canonical conversations: which columns play which part, and how they become messages.

The shapes are those that the field's datasets come in: OpenAI ``messages``, ShareGPT, Alpaca
(https://github.com/tatsu-lab/stanford_alpaca), TRL's prompt/completion, question/answer, plain text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from studio.data import multiple_choice
from studio.data.scalars import WrittenFloat
from studio.data.turns import Messages, RowRejected, any_turns, none_trained, text_of, tools_of, turns

_INVISIBLE = (
    " \t\n\r\f\v\u00a0\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\u3000\ufeff"  # no answer, if there is nothing else
)


@dataclass(frozen=True)
class Shape:
    """A format: the parts it needs and may have, the column names they usually go by, and the conversion."""

    title: str
    required: dict[str, tuple[str, ...]]
    convert: Callable[[dict[str, Any]], Messages | str | dict[str, Any]]
    optional: dict[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""  # what a person should know about what is trained on


@dataclass(frozen=True)
class Mapping:
    """What was found: the format, part -> column, and one sentence that says why.

    Attributes:
        unused: the columns of the first rows that play no part.
        first_index: of multiple-choice questions: the number of the first choice where answers are numbers.
    """

    format: str
    columns: dict[str, str]
    why: str
    unused: tuple[str, ...] = ()
    first_index: int = 0


def _list(value: Any) -> Any:
    """A column of turns, which a CSV holds as the text of a JSON list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value, parse_float=WrittenFloat)
        except (ValueError, RecursionError):
            return value
    return value


def _pair(user: str, assistant: str) -> Messages:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def _messages(parts: dict[str, Any]) -> Messages:
    return turns(_list(parts["messages"]), "messages")


def _sharegpt(parts: dict[str, Any]) -> Messages:
    return turns(_list(parts["conversations"]), "conversations", "from", "value")


def _alpaca(parts: dict[str, Any]) -> Messages:
    instruction, extra = text_of(parts["instruction"], "instruction"), text_of(parts.get("input"), "input")
    if not instruction.strip():
        raise RowRejected("instruction is empty")
    user = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    messages = _pair(user, text_of(parts["output"], "output"))
    history = _list(parts.get("history") or [])
    if not isinstance(history, list) or not all(isinstance(h, (list, tuple)) and len(h) == 2 for h in history):
        raise RowRejected("history is not a list of [question, answer] pairs")
    earlier = [
        m for question, answer in history for m in _pair(text_of(question, "history"), text_of(answer, "history"))
    ]
    return [*earlier, *messages]


def _prompt_completion(parts: dict[str, Any]) -> Messages:
    prompt, completion = parts["prompt"], parts["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return turns([*prompt, *completion], "prompt and completion")
    prompt = text_of(prompt, "prompt")
    if not prompt.strip():
        raise RowRejected("prompt is empty")
    return _pair(prompt, text_of(completion, "completion"))


def _question_answer(parts: dict[str, Any]) -> Messages:
    question = text_of(parts["question"], "question")
    if not question.strip():
        raise RowRejected("question is empty")
    context = text_of(parts.get("context"), "context")
    user = f"{context}\n\n{question}" if context.strip() else question
    return _pair(user, text_of(parts["answer"], "answer"))


def _plain(parts: dict[str, Any]) -> str:
    text = text_of(parts["text"], "text")
    if not text.strip():
        raise RowRejected("text is empty")
    return text


def _preference(parts: dict[str, Any]) -> Messages:
    """The conversation that was preferred; the prompt may be a part of it (TRL's implicit prompt) or stand apart."""
    chosen = _answer(parts["chosen"], "chosen")
    prompt = parts.get("prompt")
    if any(message["role"] == "user" for message in chosen):
        messages = chosen
    elif isinstance(prompt, list):
        messages = [*any_turns(prompt, "prompt"), *chosen]
    else:
        text = text_of(prompt, "prompt")
        if not text.strip():
            raise RowRejected("prompt is empty")
        messages = [{"role": "user", "content": text}, *chosen]
    return messages


def with_system(messages: Messages, value: Any) -> Messages:
    """Return the conversation with the system message that a column of its own holds.

    Raises:
        RowRejected: the conversation has another system message.
    """
    system = text_of(value, "system")
    if not system.strip():
        return messages
    own = [said for message in messages if message["role"] == "system" and (said := message["content"].strip())]
    if not own:
        return [{"role": "system", "content": system}, *(m for m in messages if m["role"] != "system")]
    if own != [system.strip()]:
        raise RowRejected(
            "its system column differs from the system message of its conversation", code="system_conflict"
        )
    return messages


def verdict(value: Any) -> bool | None:
    """A label as true or false, also if it is 0 or 1 or text as in a CSV; None if it is neither."""
    return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(str(value).lower())


def _unpaired_preference(parts: dict[str, Any]) -> Messages:
    wanted = verdict(parts["label"])
    if wanted is None:
        raise RowRejected(f"its label is {str(parts['label'])[:40]!r}, neither true nor false")
    if not wanted:
        raise RowRejected("its answer is marked as unwanted", wanted=True)
    return _preference({"prompt": parts["prompt"], "chosen": parts["completion"]})


def _answer(value: Any, part: str) -> Messages:
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list) and value and isinstance(value[0], dict) and "type" not in value[0]:
        return any_turns(value, part)
    return [{"role": "assistant", "content": text_of(value, part)}]


def _classification(parts: dict[str, Any]) -> Messages:
    text, label = text_of(parts["text"], "text"), text_of(parts["label"], "label")
    if not text.strip():
        raise RowRejected("text is empty")
    return _pair(text, label)


def _labelled(parts: dict[str, Any]) -> dict[str, Any]:
    """A text with its class, or with the list of all classes that it belongs to."""
    text, label = text_of(parts["text"], "text"), parts["label"]
    if not text.strip():
        raise RowRejected("text is empty")
    names = [_class_name(one) for one in label] if isinstance(label, (list, tuple)) else _class_name(label)
    return {"text": text, "label": list(dict.fromkeys(names)) if isinstance(names, list) else names}


def _class_name(value: Any) -> str:
    """A class as text. A table with holes holds whole numbers as 1.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    name = text_of(value, "label").strip()
    if not name:
        raise RowRejected("label is empty")
    return name


def _tokenized(parts: dict[str, Any]) -> dict[str, Any]:
    """Token ids that pass through as they are; labels, or a mask of what carries loss, or else every token."""
    ids = parts["input_ids"]
    if not isinstance(ids, list) or not ids or not all(isinstance(i, int) and 0 <= i < 2**31 for i in ids):
        raise RowRejected("input_ids is not a list of token ids")
    labels, mask = parts.get("labels"), parts.get("mask")
    if mask is not None and (not isinstance(mask, list) or len(mask) != len(ids)):
        raise RowRejected("the mask is not as long as input_ids")
    if labels is None:
        labels = [i if mask is None or taken else -100 for i, taken in zip(ids, mask or ids, strict=True)]
    if not isinstance(labels, list) or len(labels) != len(ids):
        raise RowRejected("labels are not as many as input_ids")
    if any(label not in (-100, i) for label, i in zip(labels, ids, strict=True)):
        raise RowRejected(
            "labels differ from input_ids; they must be the same ids, or -100 (they are not to be shifted)"
        )
    return {"input_ids": ids, "labels": labels}


_TOOLS = {"tools": ("tools", "functions")}
_SYSTEM = {"system": ("system", "system_prompt", "system_message", "systemprompt")}
SHAPES: dict[str, Shape] = {
    "messages": Shape(
        "OpenAI messages",
        {"messages": ("messages", "conversation", "conversations", "chat")},
        _messages,
        {**_SYSTEM, **_TOOLS},
    ),
    "sharegpt": Shape(
        "ShareGPT",
        {"conversations": ("conversations", "conversation", "messages")},
        _sharegpt,
        {**_SYSTEM, **_TOOLS},
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
    "multiple_choice": Shape(
        "multiple choice",
        {
            "question": ("question", "query", "problem", "input", "prompt", "stem", "ctx"),
            "choices": ("choices", "options", "endings", "candidates"),
            "answer": (
                "answer",
                "answerkey",
                "answer_key",
                "answer_idx",
                "correct_answer",
                "correct",
                "label",
                "target",
            ),
        },
        multiple_choice.convert,
        {"context": ("context", "passage", "article"), **_SYSTEM},
        note="The choices stand below the question; the right one is trained as the answer.",
    ),
    "question_answer": Shape(
        "question and answer",
        {
            "question": ("question", "query", "problem", "input", "user", "text"),
            "answer": ("answer", "response", "solution", "output", "assistant", "summary"),
        },
        _question_answer,
        {"context": ("context", "passage"), **_SYSTEM},
    ),
    "classification": Shape(
        "text classification",
        {
            "text": ("text", "sentence", "review", "content"),
            "label": ("label", "labels", "category", "class", "intent"),
        },
        _classification,
        _SYSTEM,
        note="The label is trained as the answer to the text.",
    ),
    "tokenized": Shape(
        "already tokenised",
        {"input_ids": ("input_ids",)},
        _tokenized,
        {"labels": ("labels",), "mask": ("completion_mask", "assistant_masks")},
        note="The token ids go to the trainer as they are; no chat template is used.",
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


LABELLED = Shape(
    "text classification",
    SHAPES["classification"].required,
    _labelled,
    note="The model learns to put the text into the classes of the label.",
)
"""How every row is read where the task is to put texts into classes."""


def convert(
    values: dict[str, Any], mapping: Mapping, system_prompt: str | None = None, task: str = "causal_lm"
) -> dict[str, Any]:
    """One row in canonical form: ``messages`` (and ``tools``), or ``text``, or ``input_ids`` and ``labels``; for the
    task ``seq_cls`` ``text`` and ``label``.

    Raises:
        RowRejected: the row cannot be trained on; says why.
    """
    shape = LABELLED if task == "seq_cls" else SHAPES[mapping.format]
    parts = {part: values.get(column) for part, column in mapping.columns.items()}
    for part in shape.optional:  # a table writes a missing value as NaN
        if isinstance(value := parts.get(part), float) and math.isnan(value):
            parts[part] = None
    if mapping.first_index:
        parts["first_index"] = mapping.first_index
    missing = [part for part in shape.required if parts.get(part) is None]
    if missing:
        raise RowRejected(f"{mapping.columns.get(missing[0], missing[0])} is missing")
    result = shape.convert(parts)
    if isinstance(result, str):
        return {"text": result}
    if isinstance(result, dict):
        return result
    result = with_system(result, parts.get("system"))
    said = [m for m in result if m["role"] == "assistant"]
    if not said:
        raise RowRejected("no assistant turn")
    if not any(m["content"].strip(_INVISIBLE) or m.get("tool_calls") for m in said):
        raise RowRejected("the assistant's answer is empty")
    if none_trained(result):
        raise RowRejected(
            "every assistant turn is excluded from the loss by its training flag", code="all_turns_masked"
        )
    if system_prompt and result[0]["role"] != "system":
        result = [{"role": "system", "content": system_prompt}, *result]
    tools = tools_of(parts.get("tools"))
    return {"messages": result, "tools": tools} if tools else {"messages": result}
