"""What a prompt of a suite asks of its answer, as plain data: ``{"contains": ["Lyon"]}``. No code of an answer is run.

The kinds: ``equals`` (any of the texts, without case, punctuation and articles), ``starts`` (the first words, any of
them), ``contains`` (all of the texts, in any case), ``number`` (the last number in the answer), ``regex``, ``json``
(its values), ``python`` (code that parses and defines a function of this name), ``lines``, ``sentences`` and ``words``
(how many, or [least, most]), ``refuses`` (true or false), ``all`` (of a list of checks).
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable
from typing import Any

from studio.errors import StudioError
from studio.evaluation.metrics import code_of, custom, json_fields, json_valid, normalized, refusal

_NUMBER = re.compile(r"[-−]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|[-−]?\d+(?:\.\d+)?")
_SENTENCE_END = re.compile(r"[.!?…。！？]+[\"'”’)]*(?:\s|$)")


def passes(check: dict[str, Any], output: str) -> bool:
    """Whether an answer does what its prompt asks for. ``check`` is one that :func:`sound` lets through."""
    return all(_KINDS[kind](output, wanted) for kind, wanted in check.items())


def sound(check: Any) -> dict[str, Any]:
    """The check itself.

    Raises:
        StudioError: it is no check.
    """
    if not isinstance(check, dict) or not check:
        raise StudioError('A check is an object such as {"contains": ["Lyon"]}.', "Mend it, or leave it out.")
    for kind, wanted in check.items():
        if kind not in _KINDS:
            raise StudioError(f"There is no check {kind!r}.", f"Use one of: {', '.join(_KINDS)}.")
        if kind == "all":
            if not isinstance(wanted, list) or not wanted:
                raise StudioError("The check all takes a list of checks.", "Write it as [{...}, {...}].")
            for part in wanted:
                sound(part)
        elif kind == "regex":
            custom("regex", str(wanted))
        elif not _WANTED[kind](wanted):
            raise StudioError(f"The check {kind} cannot take {json.dumps(wanted)[:60]}.", "See docs/evaluation.md.")
    return check


def _texts(wanted: Any) -> bool:
    return isinstance(wanted, list) and bool(wanted) and all(isinstance(text, str) and text for text in wanted)


def _counts(wanted: Any) -> bool:
    ends = wanted if isinstance(wanted, list) else [wanted, wanted]
    return len(ends) == 2 and all(type(end) is int and end >= 0 for end in ends)


def _within(count: int, wanted: Any) -> bool:
    low, high = wanted if isinstance(wanted, list) else (wanted, wanted)
    return low <= count <= high


def _starts(output: str, wanted: list[str]) -> bool:
    begun = normalized(output).split()
    return any(begun[: len(first)] == first for first in (normalized(text).split() for text in wanted))


def _last_number(output: str, wanted: float) -> bool:
    found = _NUMBER.findall(output)
    return bool(found) and math.isclose(float(found[-1].replace(",", "").replace("−", "-")), wanted, abs_tol=1e-9)


def _same_json(output: str, wanted: Any) -> bool:
    reference = json.dumps(wanted)
    return json_valid(output, reference) == 1 and json_fields(output, reference) == 1


def _defines(output: str, name: str) -> bool:
    tree = code_of(output)
    return tree is not None and any(isinstance(node, ast.FunctionDef) and node.name == name for node in ast.walk(tree))


def _sentences(output: str) -> int:
    text = output.strip()
    ends = len(_SENTENCE_END.findall(text))
    return ends + bool(text and not _SENTENCE_END.search(text[-3:] + " "))


_KINDS: dict[str, Callable[[str, Any], bool]] = {
    "equals": lambda output, wanted: any(normalized(output) == normalized(text) for text in wanted),
    "starts": _starts,
    "contains": lambda output, wanted: all(text.casefold() in output.casefold() for text in wanted),
    "number": _last_number,
    "regex": lambda output, wanted: custom("regex", wanted).score(output, "") == 1,
    "json": _same_json,
    "python": _defines,
    "lines": lambda output, wanted: _within(sum(1 for line in output.splitlines() if line.strip()), wanted),
    "sentences": lambda output, wanted: _within(_sentences(output), wanted),
    "words": lambda output, wanted: _within(len(output.split()), wanted),
    "refuses": lambda output, wanted: refusal(output) is wanted,
    "all": lambda output, wanted: all(passes(part, output) for part in wanted),
}
_WANTED: dict[str, Callable[[Any], bool]] = {
    "equals": _texts,
    "starts": _texts,
    "contains": _texts,
    "number": lambda wanted: isinstance(wanted, int | float) and not isinstance(wanted, bool),
    "json": lambda wanted: isinstance(wanted, dict | list),
    "python": lambda wanted: isinstance(wanted, str) and wanted.isidentifier(),
    "lines": _counts,
    "sentences": _counts,
    "words": _counts,
    "refuses": lambda wanted: isinstance(wanted, bool),
}
