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
_CURRENCY = "$€£¥₹"
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:(?P<n>\d)\s*(?P<d>\d)|(?=\{))")
_BEFORE_FRACTION = re.compile(rf"(?:(?<![\w)\]%}}])(?P<sign>[{_MINUS}]))?(?:(?P<whole>(?<![\w.,])\d{{1,12}})\s?)?$")
_SLASHED = re.compile(rf"(?P<sign>[{_MINUS}]?)\s*(?:(?P<whole>\d{{1,12}})\s+)?(?P<n>[^\s/]+)\s*/\s*(?P<d>[^\s/]+)")
_AROUND = " \t\n$."
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

    A minus sign belongs to a number, also before a currency sign, unless a word or number stands right before it:
    ``5-10`` are 5 and 10, ``-$5`` is -5. Digits that follow a Latin letter (``Q3``) are part of a name.
    """
    for found in _NUMBER.finditer(text):
        start = found.start()
        sign = start - 1
        if sign > 0 and text[sign] in _CURRENCY:
            sign -= 2 if text[sign - 1] == "\\" else 1
        signed = sign >= 0 and text[sign] in _MINUS and not _is_value_end(text[:sign][-1:])
        digits = _digits(found["digits"])
        power = found["exponent"] or found["power"] or "0"
        if digits is None or len(digits) > _MOST_DIGITS:
            continue
        try:
            value = Decimal(f"{'-' if signed else ''}{digits}E{power.replace('−', '-')}")
        except InvalidOperation:
            continue
        yield sign if signed else start, found.end(), value


def last_number(text: str) -> Decimal | None:
    r"""The last number of a text; of the last ``\boxed{...}`` if there is a number in it.

    ``\frac{1}{2}`` is one number, and so is ``1/2`` if nothing else stands in the box or the text. A fraction of
    anything but numbers has no number in it.
    """
    for part in (boxed(text), text):
        whole = _slashed(part or "")
        if whole is not None:
            return whole
        found = [value for value in _values(part or "") if value is not None]
        if found:
            return found[-1]
    return None


def _values(text: str) -> Iterator[Decimal | None]:
    """The numbers of a text in their order, with fractions as one each; None for a fraction that is no number."""
    end = 0
    closing: dict[int, int] | None = None
    for found in _FRACTION.finditer(text):
        if found.start() < end:
            continue  # within another fraction
        parts, stop = [found["n"], found["d"]], found.end()
        if found["n"] is None:
            closing = _closing_braces(text) if closing is None else closing
            parts, stop = _arguments(text, found.end(), closing)
        before = _BEFORE_FRACTION.search(text, max(end, found.start() - 20), found.start())
        start = before.start() if before else found.start()
        yield from (value for _, _, value in number_spans(text[end:start]))
        yield _quotient(before["sign"] or "" if before else "", before["whole"] or "" if before else "", *parts)
        end = stop
    yield from (value for _, _, value in number_spans(text[end:]))


def _arguments(text: str, start: int, closing: dict[int, int]) -> tuple[list[str], int]:
    """The two arguments in braces from a place on, and where they end; empty ones where they are missing."""
    parts = []
    for _ in range(2):
        start += len(text[start : start + 3]) - len(text[start : start + 3].lstrip())
        if text[start : start + 1] != "{" or start not in closing:
            return ["", ""], start
        parts.append(text[start + 1 : closing[start]])
        start = closing[start] + 1
    return parts, start


def _slashed(text: str) -> Decimal | None:
    """The value of a text that is a fraction such as ``1/2`` or ``-1 1/2`` and nothing else."""
    if len(text) > _MOST_DIGITS:
        return None
    found = _SLASHED.fullmatch(re.sub(r"\\[()\[\]]", "", text).strip(_AROUND))
    return _quotient(found["sign"], found["whole"] or "", found["n"], found["d"]) if found else None


def _quotient(sign: str, whole: str, above: str, below: str) -> Decimal | None:
    """``whole`` and a fraction; None if a part is not just a number."""
    values = [_only_number(above), _only_number(below)]
    if None in values or not values[1]:
        return None
    value = Decimal(whole or 0) + values[0] / values[1]
    return -value if sign else value


def _only_number(text: str) -> Decimal | None:
    text = text.strip()
    found = list(number_spans(text)) if len(text) <= _MOST_DIGITS else []
    return found[0][2] if len(found) == 1 and found[0][:2] == (0, len(text)) else None


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
