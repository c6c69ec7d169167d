"""The turns of a conversation, in whatever form a dataset writes them, as canonical messages.

A canonical message has ``role`` (system, user, assistant or tool) and ``content`` (text), and where the dataset says so
``reasoning_content``, ``tool_calls`` in OpenAI's form with the arguments as an object, ``tool_call_id`` and ``name``.
A message that the dataset excludes from the loss has ``train: False``; the key is absent otherwise.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

from studio.data.scalars import scalar_text

Messages = list[dict[str, Any]]

_ROLES = {
    "system": ("system", "developer", "system_prompt"),
    "user": ("user", "human", "prompter"),
    "assistant": (
        *("assistant", "gpt", "model", "chatgpt", "bot", "ai", "bing", "bard", "claude", "gemini", "llm", "chatbot"),
        *("gpt4", "gpt_4", "gpt_3.5", "function_call", "tool_call"),
    ),
    "tool": (
        *("tool", "function", "observation", "tool_response", "tool_result", "tool_results", "tool_output", "ipython"),
        *("function_response", "function_result"),
    ),
}
ROLES = {name: role for role, names in _ROLES.items() for name in names}
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value", "text")
_CALLING = ("function_call", "tool_call")  # roles whose text is the call itself
_REASONING = ("reasoning_content", "reasoning", "thinking")
_TRAIN_FLAGS = ("weight", "train", "trainable", "training", "loss")  # false or 0 excludes a message from the loss
_MASK_FLAGS = ("masked",)  # true or 1 excludes it (torchtune)
_MORE_KEYS = ("tool_calls", "function_call", "tool_call_id", "name", "train_detail", "training_detail")
TURN_KEYS = frozenset((*ROLE_KEYS, *CONTENT_KEYS, *_REASONING, *_TRAIN_FLAGS, *_MASK_FLAGS, *_MORE_KEYS))
"""What is read of a turn; any other key is not used."""
_DETAILS = ("train_detail", "training_detail")  # Axolotl: parts of a message
_SWITCH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)


class RowRejected(Exception):
    """A row that cannot be trained on; the message is the reason, as a clause ("no assistant turn").

    Attributes:
        wanted: whether the dataset itself says so (an answer marked as unwanted), so that nothing needs mending.
        code: a stable identifier of the kind of reason; empty if it has none.
    """

    def __init__(self, reason: str, *, wanted: bool = False, code: str = ""):
        super().__init__(reason)
        self.wanted = wanted
        self.code = code


def text_of(value: Any, part: str) -> str:
    """A column's value as text. Typed content (``[{"type": "text", "text": ...}]``) is joined.

    Raises:
        RowRejected: it is no text.
    """
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(item, dict) and item.get("type") == "text" for item in value):
        value = "".join(str(item.get("text") or "") for item in value)
    if isinstance(value, list) and any(isinstance(item, dict) and "type" in item for item in value):
        kinds = [item.get("type") if isinstance(item, dict) else type(item).__name__ for item in value]
        kind = next((kind for kind in kinds if kind != "text"), "unknown")
        raise RowRejected(f"{part} holds {str(kind)[:40]!r} content, and only text can be trained on")
    text = scalar_text(value)
    if text is None:
        if isinstance(value, (float, Decimal)):
            raise RowRejected(f"{part} is {value}, not text")  # what a table without a value often holds
        kind = "binary data" if isinstance(value, (bytes, bytearray)) else f"a {type(value).__name__}"
        raise RowRejected(f"{part} is {kind}, not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can write one half of a surrogate pair, UTF-8 cannot
        raise RowRejected(f"{part} holds half a character") from error
    return text


def turns(given: Any, part: str, role_key: str = "role", content_key: str = "content") -> Messages:
    """A list of turns as messages.

    Args:
        role_key, content_key: where a turn says who speaks, and what; other usual names are looked at after these.

    Raises:
        RowRejected: it is no list of turns with known roles; says which turn.
    """
    if not isinstance(given, list) or not given:
        raise RowRejected(f"{part} is empty" if not given else f"{part} is not a list of turns")
    messages = []
    for index, turn in enumerate(given, 1):
        if not isinstance(turn, dict):
            raise RowRejected(f"turn {index} is not an object")
        name = _first(turn, role_key, ROLE_KEYS)
        asked = role_name(name)
        role = ROLES.get(asked) if name is not None else None
        if role is None:
            raise RowRejected(
                f"turn {index} has no known role ({str(name)[:40]!r})" if name else f"turn {index} has no role",
                code="role",
            )
        message = {"role": role, "content": text_of(_first(turn, content_key, CONTENT_KEYS), f"turn {index}")}
        if asked in _CALLING and (calls := _calls_in(message["content"])):
            message |= {"content": "", "tool_calls": calls}
        more = _more(turn, index)
        if not (message["content"] or more) and not any(key in turn for key in CONTENT_KEYS):
            raise RowRejected(f"turn {index} has no {content_key}", code="no_content")
        messages.append(message | more)
    return messages


def role_name(name: Any) -> str:
    """Return a role in the spelling of ``ROLES``: lower case, with underscores."""
    return str(name).strip().lower().replace("-", "_").replace(" ", "_")


def _first(turn: dict, key: str, others: tuple[str, ...]) -> Any:
    return next((turn[k] for k in (key, *others) if turn.get(k) is not None), None)


def any_turns(given: list, part: str) -> Messages:
    """Turns that are written with ``role`` and ``content``, or with ``from`` and ``value``."""
    named = isinstance(given[0], dict) and "from" in given[0] if given else False
    return turns(given, part, *(("from", "value") if named else ("role", "content")))


def _more(turn: dict, index: int) -> dict[str, Any]:
    """What a turn says besides its role and content."""
    more: dict[str, Any] = {}
    if reasoning := next((turn[key] for key in _REASONING if turn.get(key)), None):
        more["reasoning_content"] = text_of(reasoning, f"the reasoning of turn {index}")
    if turn.get("tool_calls"):
        more["tool_calls"] = _tool_calls(turn["tool_calls"], index)
    elif isinstance(turn.get("function_call"), dict):
        more["tool_calls"] = _tool_calls([turn["function_call"]], index)
    for key in ("tool_call_id", "name"):
        if isinstance(turn.get(key), str) and turn[key]:
            more[key] = turn[key]
    if not _is_trained(turn, index):
        more["train"] = False
    return more


def _is_trained(turn: dict, index: int) -> bool:
    """Return whether the flags of a message leave it in the loss; null and absent flags say nothing.

    Raises:
        RowRejected: a flag is neither true nor false, two flags disagree, or parts of a message are flagged.
    """
    said: dict[str, bool] = {}
    for key in (*_TRAIN_FLAGS, *_MASK_FLAGS):
        value = turn.get(key)
        measured = key == "loss" and isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is None or value != value or value == "" or measured:
            continue  # null and NaN are what a table writes where a message has no flag
        flag = _SWITCH.get(str(value).strip().lower())
        if flag is None:
            allowed = "0 or 1" if key == "weight" else "true or false"
            raise RowRejected(
                f"turn {index} has {key} {str(value)[:40]!r}, which is not {allowed}", code="training_flag"
            )
        said[key] = flag != (key in _MASK_FLAGS)
    if len(set(said.values())) > 1:
        raise RowRejected(f"turn {index} has flags that disagree: {', '.join(said)}", code="training_flag")
    if part := next((key for key in _DETAILS if turn.get(key)), None):
        raise RowRejected(
            f"turn {index} has {part}: only whole messages can be excluded from the loss", code="training_flag"
        )
    return all(said.values())


def none_trained(messages: Messages) -> bool:
    """Return whether the dataset excludes every assistant message from the loss."""
    return all(message.get("train") is False for message in messages if message["role"] == "assistant")


def _tool_calls(calls: Any, index: int) -> list[dict]:
    if isinstance(calls, str):
        calls = _parsed(calls)
    calls = [calls] if isinstance(calls, dict) else calls
    found = [_call(item) for item in calls] if isinstance(calls, list) else []
    if not found or None in found:
        raise RowRejected(f"turn {index} has tool_calls without a function's name")
    return _written(found, f"the tool_calls of turn {index}")


def _written(value: Any, part: str) -> Any:
    """A value that is written as JSON into the text, if it can be."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        reason = "half a character" if isinstance(error, UnicodeEncodeError) else "what JSON cannot write"
        raise RowRejected(f"{part} hold {reason}") from error
    return value


def _calls_in(text: str) -> list[dict] | None:
    """The calls in the text of a turn that is nothing but calls, or None if it cannot be read so."""
    value = _parsed(text)
    items = value if isinstance(value, list) else [value]
    calls = [_call(item) for item in items if isinstance(item, dict)]
    whole = calls and len(calls) == len(items) and None not in calls
    return _written(calls, "the calls") if whole else None


def _call(item: Any) -> dict | None:
    """One call in OpenAI's form, with its arguments as an object where they are one."""
    inner = item.get("function") if isinstance(item, dict) and isinstance(item.get("function"), dict) else item
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"]:
        return None
    arguments = inner.get("arguments", inner.get("parameters", {}))
    if isinstance(arguments, str):
        parsed = _parsed(arguments)
        arguments = parsed if isinstance(parsed, dict) else arguments
    call = {
        "type": "function",
        "function": {"name": inner["name"], "arguments": {} if arguments is None else arguments},
    }
    if isinstance(item.get("id"), str):
        call["id"] = item["id"]
    return call


def tools_of(value: Any) -> list[dict] | None:
    """The ``tools`` column as a list of functions in OpenAI's form; None if there are none.

    Raises:
        RowRejected: it is not a list of functions.
    """
    if isinstance(value, str) and value.strip():
        value = _parsed(value)
        if value is None:
            raise RowRejected("tools is not JSON")
    if not value or not isinstance(value, (str, list, dict)) or value == "":
        return None
    value = [value] if isinstance(value, dict) else value
    if not isinstance(value, list):
        raise RowRejected("tools is not a list of functions")
    found = []
    for item in value:
        item = _parsed(item) if isinstance(item, str) else item
        inner = item.get("function") if isinstance(item, dict) and isinstance(item.get("function"), dict) else item
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise RowRejected("tools holds something that is not a function")
        inner = {key: value for key, value in inner.items() if value is not None}
        found.append({"type": "function", "function": _written(inner, "the tools")})
    return found


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def split_reasoning(content: str) -> tuple[str, str]:
    """(what is thought, what is said) of an answer that begins with ``<think>...</think>``; else ("", all of it)."""
    match = _THOUGHT.match(content)
    return (match.group(1).strip("\n"), content[match.end() :]) if match else ("", content)


def without_reasoning(messages: Messages) -> Messages:
    """The same messages without what the assistant thinks before it answers."""
    kept = []
    for message in messages:
        if message["role"] == "assistant":
            message = {k: v for k, v in message.items() if k != "reasoning_content"}
            message["content"] = split_reasoning(message["content"])[1]
        kept.append(message)
    return kept


def carries_loss(message: dict) -> bool:
    """Return whether a message is a reply that is trained on: it says something and is not excluded by its flag."""
    if message["role"] != "assistant" or message.get("train") is False:
        return False
    return bool((message.get("content") or "").strip() or message.get("tool_calls") or message.get("reasoning_content"))
