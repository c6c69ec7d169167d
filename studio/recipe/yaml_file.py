"""YAML as recipes use it: bounded, without aliases, and no key twice.

A few hundred bytes of nested aliases expand to gigabytes, and the second of two equal keys silently replaces the first.
"""

from __future__ import annotations

from typing import Any

import yaml

from studio.errors import StudioError

MOST_BYTES = 1 << 20
MOST_DEPTH = 20  # nested mappings and lists
MOST_NODES = 20_000  # keys, values, mappings and lists
_SHOWN = 200  # characters of a text that somebody else wrote, in an error

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first is libyaml's, ten times as fast


class _UniqueKeys(_Loader):
    """A safe loader that refuses a mapping with a duplicate key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: dict[Any, yaml.Node] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node)
            if key in seen:
                raise _Duplicate(key_node.value, seen[key].start_mark.line + 1, key_node.start_mark.line + 1)
            seen[key] = key_node
        return super().construct_mapping(node, deep=deep)


class _Duplicate(Exception):
    def __init__(self, key: str, first: int, second: int):
        super().__init__(key)
        self.key, self.first, self.second = key, first, second


def short(text: Any, most: int = _SHOWN) -> str:
    """Return a text, cut to so many characters, for a message."""
    text = str(text)
    return text if len(text) <= most else f"{text[:most]}…"


def read_yaml(text: str, where: str) -> Any:
    """Return what a YAML text says, in plain dicts, lists and scalars; None if it is empty.

    Args:
        where: what the text is, as it begins a sentence.

    Raises:
        StudioError: it is too large or too deeply nested, has an alias, an anchor or a key twice, or is no YAML.
            ``code`` is ``recipe_too_large``, ``recipe_too_deep``, ``recipe_alias``, ``recipe_duplicate_key`` or
            ``recipe_yaml``.
    """
    if len(text) > MOST_BYTES or len(text.encode("utf-8", "surrogatepass")) > MOST_BYTES:
        raise too_large(where)
    try:
        _check_events(text, where)
        return yaml.load(text, Loader=_UniqueKeys)
    except _Duplicate as error:
        raise StudioError(
            f"{where}: duplicate key {short(error.key, 80)!r}, in lines {error.first} and {error.second}.",
            "Put both parts under one key.",
            field="",
            code="recipe_duplicate_key",
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        reason = short(getattr(error, "problem", None) or "it cannot be parsed")
        raise StudioError(
            f"{where} is not valid YAML{line}: {reason}.", "Correct that line.", code="recipe_yaml"
        ) from error
    except (ValueError, OverflowError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML's own constructors: a date or a number that there is not
        raise StudioError(
            f"{where} is not valid YAML: {short(error)}.", "Put that value in quotes.", code="recipe_yaml"
        ) from error


def too_large(where: str) -> StudioError:
    """The refusal of a recipe that is larger than any real one."""
    return StudioError(
        f"{where} is larger than {MOST_BYTES >> 20} MB.",
        "A recipe holds settings; rows belong in a dataset.",
        field="",
        code="recipe_too_large",
    )


def _check_events(text: str, where: str) -> None:
    """Look through a text without building anything from it."""
    depth = nodes = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
            raise StudioError(
                f"{where}, line {event.start_mark.line + 1}: {sign}{short(event.anchor, 80)} is an alias or an anchor.",
                "Recipes have none: write the value out.",
                field="",
                code="recipe_alias",
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        nodes += isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent))
        if depth > MOST_DEPTH:
            raise StudioError(
                f"{where}, line {event.start_mark.line + 1}: more than {MOST_DEPTH} levels of nesting.",
                "A recipe has sections with settings.",
                field="",
                code="recipe_too_deep",
            )
        if nodes > MOST_NODES:
            raise too_large(where)
