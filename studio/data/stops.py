"""The tokens that end a reply: one set for training, chat, samples, suites, judge, saved models and exports."""

from __future__ import annotations

from typing import Any

from studio.data.encode import IGNORE, encode_conversation
from studio.errors import StudioError

_ASK = {"role": "user", "content": "a"}
_CALL = {"type": "function", "id": "call00001", "function": {"name": "b", "arguments": {"c": "d"}}}
_TOOL = {"type": "function", "function": {"name": "b", "description": "c", "parameters": {"type": "object"}}}
_REPLIES = (  # what a reply may be, with the functions that it may call
    ({"role": "assistant", "content": "b"}, None),
    ({"role": "assistant", "content": "", "tool_calls": [_CALL]}, [_TOOL]),
)


def end_of_turn_ids(tokenizer: Any) -> list[int]:
    """Return the special tokens that the chat template puts at the end of a reply, and of one that calls a function."""
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    found: dict[int, None] = {}
    for reply, tools in _REPLIES:
        try:
            labels = encode_conversation(tokenizer, [_ASK, reply], tools=tools).labels
        except StudioError:  # a template that cannot be trained on: its end of turn is not known
            continue
        last = next((label for label in reversed(labels) if label != IGNORE), None)
        if last in special:
            found[last] = None
    return list(found)


def stop_ids(tokenizer: Any, generation_config: Any = None) -> frozenset[int]:
    """Return the tokens that end a reply: the template's, the tokenizer's, and those of the model's own settings."""
    known = getattr(generation_config, "eos_token_id", None)
    found = {*(known if isinstance(known, (list, tuple)) else [known]), tokenizer.eos_token_id}
    return frozenset(int(token) for token in {*found, *end_of_turn_ids(tokenizer)} if token is not None)


def set_stops(generation_config: Any, tokenizer: Any) -> Any:
    """Write the tokens that end a reply, and the padding token, into a model's generation settings, in place."""
    stops = stop_ids(tokenizer, generation_config)
    first = [token for token in end_of_turn_ids(tokenizer) if token in stops]
    ordered = [*first, *sorted(stops - {*first})]
    generation_config.eos_token_id = ordered if len(ordered) > 1 else (ordered or [None])[0]
    if tokenizer.pad_token_id is not None:
        generation_config.pad_token_id = tokenizer.pad_token_id
    return generation_config
