r"""Find the final answer in what a model wrote: the last ``\boxed{...}``, and numbers in the usual notations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation

_BOX = re.compile(r"\\f?boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|displaystyle)\s*\{")
_SPACING = re.compile(r"\\[!,;: ]|\\q?quad(?![a-zA-Z])")
_ESCAPED = re.compile(r"\\([%$#&_])")
_GROUP = r"[,'’_\u00a0\u2009\u202f]"
_NUMBER = re.compile(
    r"(?<![\dA-Za-z_])(?<!\d\.)(?P<digits>"
    rf"(?<!\d{_GROUP})\d{{1,3}}(?:{_GROUP}\d{{3}})++(?!\d)(?:\.\d+)?"  # 1,234.5
    r"|\d{1,3}(?:\.\d{3})++,\d{1,2}(?![\d,.])"  # 1.234,5
    r"|\d+(?:\.\d+){2,}"  # 1.234.567, or a version
    r"|\d+(?:\.\d+)?"
    r"|(?<![\d.])\.\d+)"
    r"(?:[eE](?P<exponent>[-+−]?\d{1,4})(?![\dA-Za-z])"
    r"|\s*(?:[×x*·⋅]|\\times|\\cdot)\s*10\s*(?:\^|\*\*)\s*\{?(?P<power>[-+−]?\d{1,4})\}?(?!\d))?"
)
_MINUS = "-−–﹣-"
_MOST_DIGITS = 1000
_MOST_WRAPPERS = 5


def boxed(text: str) -> str | None:
    r"""What stands in the last ``\boxed{...}`` of a text, without ``\text{...}`` around it; None if there is none.

    Of boxes in one another it is the innermost. A box that is never closed, as in an answer that was cut off, is none.
    """
    closing = _closing_braces(text)
    ends = [(found.end(), closing.get(found.end() - 1)) for found in _BOX.finditer(text)]
    closed = [(start, end) for start, end in ends if end is not None]
    return plain(text[closed[-1][0] : closed[-1][1]]) if closed else None


def plain(latex: str) -> str:
    r"""LaTeX without commands that only format it: ``\text{C}``, ``\,``, ``\%``."""
    text = latex.strip()
    for _ in range(_MOST_WRAPPERS):
        wrapper = _WRAPPER.match(text)
        if not wrapper or _closing_braces(text).get(wrapper.end() - 1) != len(text) - 1:
            break
        text = text[wrapper.end() : -1].strip()
    return _ESCAPED.sub(r"\1", _SPACING.sub(" ", text)).strip()


def _closing_braces(text: str) -> dict[int, int]:
    r"""The place of the closing brace by that of its opening one; ``\{`` and ``\}`` are text."""
    found: dict[int, int] = {}
    open_braces: list[int] = []
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            open_braces.append(brace.start())
        elif brace[0] == "}" and open_braces:
            found[open_braces.pop()] = brace.start()
    return found


def number_spans(text: str) -> Iterator[tuple[int, int, Decimal]]:
    """Where the numbers of a text stand and what they are, in their order.

    A minus sign belongs to a number unless a word or number stands right before it: ``5-10`` are 5 and 10. Digits that
    follow a Latin letter (``Q3``) are part of a name.
    """
    for found in _NUMBER.finditer(text):
        start = found.start()
        signed = start and text[start - 1] in _MINUS and not _is_value_end(text[: start - 1][-1:])
        digits = _digits(found["digits"])
        power = found["exponent"] or found["power"] or "0"
        if digits is None or len(digits) > _MOST_DIGITS:
            continue
        try:
            value = Decimal(f"{'-' if signed else ''}{digits}E{power.replace('−', '-')}")
        except InvalidOperation:
            continue
        yield start - bool(signed), found.end(), value


def last_number(text: str) -> Decimal | None:
    r"""The last number of a text; of the last ``\boxed{...}`` if there is a number in it."""
    for part in (boxed(text), text):
        found = [value for _, _, value in number_spans(part or "")]
        if found:
            return found[-1]
    return None


def _is_value_end(character: str) -> bool:
    return character.isalnum() or character in (")", "]", "%") if character else False


def _digits(text: str) -> str | None:
    """Digits with a decimal point and nothing else; None for a version such as 1.2.3."""
    text = re.sub(_GROUP, ",", text)
    if re.fullmatch(r"\d{1,3}(?:\.\d{3})+,\d{1,2}", text):
        return text.replace(".", "").replace(",", ".")
    if text.count(".") > 1:
        return text.replace(".", "") if re.fullmatch(r"\d{1,3}(?:\.\d{3})+", text) else None
    return text.replace(",", "")
