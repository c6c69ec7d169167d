r"""What a prompt of a suite asks of its answer, as plain data: ``{"contains": ["Lyon"]}``. No code of an answer is run.

``docs/evaluation.md`` says for each kind which answers pass.
"""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from collections.abc import Callable
from typing import Any

from studio.errors import StudioError
from studio.evaluation.expressions import check_expression, is_found
from studio.evaluation.final_answer import boxed, last_number, number_spans
from studio.evaluation.metrics import code_of, json_fields, json_valid, refusal
from studio.evaluation.normalize import normalized, words

_SENTENCE_END = re.compile(r"(?<![.!?…。！？])[.!?…。！？]++[\"'”’)]*+(?:\s|$)")
_MINUS = str.maketrans("−–", "--")


def passes(check: dict[str, Any], output: str) -> bool:
    """Whether an answer does what its prompt asks for. ``check`` is one that :func:`sound` lets through.

    Raises:
        StudioError: (``regex-too-slow``) a regular expression takes longer than a second on this answer.
    """
    return all(_KINDS[kind](output, wanted) for kind, wanted in check.items())


def sound(check: Any) -> dict[str, Any]:
    """The check itself.

    Raises:
        StudioError: it is no check.
    """
    if not isinstance(check, dict) or not check:
        raise StudioError('A check is an object such as {"contains": ["Lyon"]}.', "Correct it, or leave it out.")
    for kind, wanted in check.items():
        if kind not in _KINDS:
            raise StudioError(f"There is no check {kind!r}.", f"Use one of: {', '.join(_KINDS)}.")
        if kind == "all":
            if not isinstance(wanted, list) or not wanted:
                raise StudioError("The check all takes a list of checks.", "Write it as [{...}, {...}].")
            for part in wanted:
                sound(part)
        elif kind == "regex":
            if not isinstance(wanted, str) or not wanted:
                raise StudioError("The check regex takes a regular expression.", 'Write it as a text: "^yes".')
            check_expression(wanted, "The check regex")
        elif not _WANTED[kind](wanted):
            raise StudioError(f"The check {kind} cannot take {repr(wanted)[:60]}.", "See docs/evaluation.md.")
    return check


def _texts(wanted: Any) -> bool:
    return isinstance(wanted, list) and bool(wanted) and all(isinstance(text, str) and text.strip() for text in wanted)


def _is_finite(wanted: Any) -> bool:
    if not isinstance(wanted, int | float) or isinstance(wanted, bool):
        return False
    try:
        return math.isfinite(wanted)
    except OverflowError:  # an integer beyond what a float holds
        return False


def _is_json(wanted: Any) -> bool:
    try:
        json.dumps(wanted, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return isinstance(wanted, dict | list)


def _counts(wanted: Any) -> bool:
    ends = wanted if isinstance(wanted, list) else [wanted, wanted]
    return len(ends) == 2 and all(type(end) is int and end >= 0 for end in ends) and ends[0] <= ends[1]


def _within(count: int, wanted: Any) -> bool:
    low, high = wanted if isinstance(wanted, list) else (wanted, wanted)
    return low <= count <= high


def _credited(output: str) -> list[str]:
    """The texts of an answer that may be the wanted one: all of it, and its last box."""
    answer = boxed(output)
    return [output] if answer is None else [output, answer]


def _equals(output: str, wanted: list[str]) -> bool:
    return {normalized(text) for text in _credited(output)} & {normalized(text) for text in wanted} != set()


def _starts(output: str, wanted: list[str]) -> bool:
    return any(_begins(text, first) for text in _credited(output) for first in wanted)


def _begins(output: str, first: str) -> bool:
    """Whether the first words are these, with articles or without: "The" begins "The cat", and so does "cat"; an "A"
    that is an article there is not the letter."""
    if _has_prefix(words(output), words(first)):
        return True
    wanted = words(first, articles=True)
    return wanted != ["a"] and _has_prefix(words(output, articles=True), wanted)


def _has_prefix(found: list[str], wanted: list[str]) -> bool:
    return found[: len(wanted)] == wanted


def _contains(output: str, wanted: list[str]) -> bool:
    text = unicodedata.normalize("NFKC", output).casefold().translate(_MINUS)
    numbers = [(start, end) for start, end, _ in number_spans(text)]
    return all(
        _stands_in(unicodedata.normalize("NFKC", part).casefold().translate(_MINUS), text, numbers) for part in wanted
    )


def _stands_in(part: str, text: str, numbers: list[tuple[int, int]]) -> bool:
    """Whether a text contains another one that does not begin or end within a number: 5 is not in 15, -5 or 0.5."""
    at = text.find(part)
    while at >= 0:
        end = at + len(part)
        if not any(start < edge < stop for start, stop in numbers for edge in (at, end)):
            return True
        at = text.find(part, at + 1)
    return False


def _last_number(output: str, wanted: float) -> bool:
    """An integer exactly, any other number to nine digits."""
    found = last_number(output)
    if found is None:
        return False
    return found == wanted if isinstance(wanted, int) else math.isclose(found, wanted, abs_tol=1e-9)


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
    "equals": _equals,
    "starts": _starts,
    "contains": _contains,
    "number": _last_number,
    "regex": lambda output, wanted: is_found(wanted, output, "The check regex"),
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
    "number": _is_finite,
    "json": _is_json,
    "python": lambda wanted: isinstance(wanted, str) and wanted.isidentifier(),
    "lines": _counts,
    "sentences": _counts,
    "words": _counts,
    "refuses": lambda wanted: isinstance(wanted, bool),
}
