"""Random conversations for the chat templates of TRL, and what the encoder makes of each: exact, flagged or refused."""

from __future__ import annotations

import importlib.util
import random
import re
from functools import cache
from pathlib import Path
from typing import Any

from tiny import make_tiny_tokenizer

from studio.data.encode import IGNORE, Encoded, encode_conversation, encode_prompt
from studio.errors import StudioError

FOLDER = Path(importlib.util.find_spec("trl").submodule_search_locations[0]) / "chat_templates"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jinja"))
SPECIAL = re.compile(
    r"<\|[^<>|\s]+\|>|<\|?[a-z_]+\|?>|\[/?[A-Z_]+\]|</s>|<｜[^<>｜]+｜>|<[a-z]+_of_[a-z]+>|<\|[A-Z_]+\|>"
)
TAGS = re.compile(r"</?think>|</?tool\w*>|</?function\w*>|</?param\w*>|</?IMPORTANT>|</?arg_\w+>")
FEATURES = ("plain", "turns", "system", "tools", "reasoning", "reasoning_turns")
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Look up the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_STARTS = ("", "", "", " ", "\n", "\n\n", "    ", "\t")  # whitespace that a tokenizer likes to merge
_ENDS = ("", "", "", " ", "\n", ".", ",\n")


@cache
def tokenizer_of(name: str) -> Any:
    """A tokenizer that knows every token that a template of TRL names."""
    return tokenizer_for((FOLDER / f"{name}.jinja").read_text(encoding="utf-8"))


def tokenizer_for(template: str) -> Any:
    """A byte-level tokenizer that knows every token that a template names."""
    from transformers import PreTrainedTokenizerFast

    named = [token for token in dict.fromkeys(SPECIAL.findall(template)) if not TAGS.fullmatch(token)]
    made = PreTrainedTokenizerFast(
        tokenizer_object=make_tiny_tokenizer(["<|bos|>", "<|eos|>", *named], vocab_size=400 + len(named)),
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = template
    return made


def conversation(feature: str, seed: int) -> tuple[list[dict], list[dict] | None]:
    """A random conversation with its tools. Every word in it occurs once.

    Args:
        feature: one of ``FEATURES``.
    """
    drawn = random.Random(f"{feature} {seed}")
    number = iter(range(1000))

    def words(most: int = 4) -> str:
        return " ".join(f"w{next(number)}q{drawn.choice('abc')}" for _ in range(drawn.randint(1, most)))

    def said() -> str:
        return drawn.choice(_STARTS) + words() + drawn.choice(_ENDS)

    def reply(thinks: bool) -> dict:
        message = {"role": "assistant", "content": said()}
        return message | ({"reasoning_content": words()} if thinks else {})

    messages: list[dict] = []
    if feature == "system" or (feature != "plain" and drawn.random() < 0.3):
        messages.append({"role": "system", "content": said()})
    rounds = drawn.randint(2, 3) if feature in ("turns", "reasoning_turns") else 1 + (drawn.random() < 0.3)
    if feature in ("plain", "reasoning"):
        rounds = 1
    for turn in range(rounds):
        messages.append({"role": "user", "content": said()})
        if feature == "tools" and (turn == rounds - 1 or drawn.random() < 0.5):
            call = {"name": "get_weather", "arguments": {"city": words(1)}}
            entry = {"type": "function", "id": f"call{turn:05}", "function": call}
            beside = words() if drawn.random() < 0.3 else ""
            messages.append({"role": "assistant", "content": beside, "tool_calls": [entry]})
            result = {"role": "tool", "content": words(), "tool_call_id": f"call{turn:05}", "name": "get_weather"}
            messages.append(result)
        messages.append(reply(feature.startswith("reasoning")))
    return messages, [TOOL] if feature == "tools" else None


def parts(messages: list[dict]) -> list[str]:
    """Every word that a conversation says."""
    found = []
    for message in messages:
        found += message["content"].split() + message.get("reasoning_content", "").split()
        for call in message.get("tool_calls", []):
            found += [call["function"]["name"], *call["function"]["arguments"].values()]
    return found


def verdict(tokenizer: Any, messages: list[dict], tools: list[dict] | None) -> tuple[str, list[str]]:
    """What the encoder says of a conversation: ``exact``, or ``flagged`` or ``refused`` with its codes."""
    try:
        encoded = encode_conversation(tokenizer, messages, tools=tools)
    except StudioError as error:
        assert error.code, f"a refusal without a code: {error}"
        return "refused", [error.code]
    codes = sorted({flag.code for flag in encoded.flags})
    return ("flagged", codes) if codes else ("exact", [])


def check_exact(tokenizer: Any, messages: list[dict], tools: list[dict] | None, encoded: Encoded) -> None:
    """Hold an example without a flag to what is claimed of it, by means of transformers alone where that is possible.

    Raises:
        AssertionError: a word is lost, a reply's prompt is not what the row begins with, or the loss is misplaced.
    """
    lost = [word for word in parts(messages) if word not in encoded.text.replace("\\n", "\n")]
    assert not lost, f"lost: {lost}"
    replies = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    labels = encoded.labels
    ends = []
    for index in replies:
        prompt = encode_prompt(tokenizer, messages[:index], tools=tools)
        size = len(prompt)
        assert encoded.input_ids[:size] == prompt, f"message {index}: the prompt is no prefix of the row"
        rendered = _rendered(tokenizer, messages[:index], tools)
        if rendered is not None:
            assert encoded.text.startswith(rendered)
            assert tokenizer.decode(prompt) == rendered
        assert labels[size - 1] == IGNORE, f"message {index}: what the prompt supplies carries loss"
        assert labels[size] != IGNORE, f"message {index}: the first token of the reply carries no loss"
        end = next((i for i in range(size, len(labels)) if labels[i] == IGNORE), len(labels))
        run = tokenizer.decode(encoded.input_ids[size:end])
        assert all(word in run for word in messages[index]["content"].split())
        assert encoded.input_ids[end - 1] in tokenizer.all_special_ids or _added(tokenizer, encoded.input_ids[end - 1])
        ends.append((size, end))
    inside = {place for start, end in ends for place in range(start, end)}
    assert all((label != IGNORE) == (place in inside) for place, label in enumerate(labels))


def _added(tokenizer: Any, token: int) -> bool:
    return token in tokenizer.added_tokens_decoder


def _rendered(tokenizer: Any, messages: list[dict], tools: list[dict] | None) -> str | None:
    """The prompt as transformers renders it; None where the studio may write calls or reasoning in another form."""
    import jinja2

    if any(message.get("tool_calls") or message.get("reasoning_content") for message in messages):
        return None
    try:
        return tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False)
    except (jinja2.TemplateError, TypeError):
        return None
