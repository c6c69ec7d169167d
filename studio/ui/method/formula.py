"""A formula in LaTeX as MathML, which browsers draw by themselves, and nothing but MathML."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from xml.etree import ElementTree

ELEMENTS = {
    "math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "ms", "mfrac", "msqrt", "mroot", "mstyle", "merror",
    "mpadded", "mphantom", "menclose", "msub", "msup", "msubsup", "munder", "mover", "munderover", "mmultiscripts",
    "mprescripts", "none", "mtable", "mtr", "mlabeledtr", "mtd",
}  # fmt: skip
ATTRIBUTES = {
    "display", "mathvariant", "stretchy", "fence", "form", "separator", "symmetric", "accent", "accentunder",
    "movablelimits", "linethickness", "notation", "columnalign", "rowalign", "columnlines", "rowlines", "rowspacing",
    "columnspacing", "displaystyle", "scriptlevel", "width", "height", "depth", "lspace", "rspace", "minsize",
    "maxsize", "mathsize", "bevelled",
}  # fmt: skip
_VALUE = re.compile(r"[\w.+%# -]{0,60}")
_DEEPEST = 60  # elements inside each other


@functools.lru_cache(maxsize=4096)
def mathml(source: str, block: bool, escape: Callable[[str], str]) -> str | None:
    """The formula as a ``math`` element, or None where it is not understood (its source is shown then).

    Whatever the converter makes of it is written anew from a list of elements and attributes that only draw; a formula
    with anything else, such as a link, is not drawn.

    Args:
        escape: makes text safe for the inside of an element.
    """
    from latex2mathml.converter import convert

    try:
        tree = ElementTree.fromstring(convert(source, display="block" if block else "inline"))
        return _written(tree, escape, 0)
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError, ElementTree.ParseError, _Refused):
        return None
    except Exception as error:
        if type(error).__module__.startswith("latex2mathml"):  # its errors have no class in common
            return None
        raise


def _root(name: str, element: ElementTree.Element, escape: Callable[[str], str], depth: int) -> str:
    """A root as its sign and what is under it, in brackets: where no font for mathematics is installed, browsers draw
    nothing at all for ``msqrt``."""
    parts = [_written(child, escape, depth + 1) for child in element]
    index = ""
    if name == "mroot":
        index = f"<msup><mrow></mrow>{parts.pop()}</msup>"
    inside = "".join(parts)
    if len(list(element.iter())) - (name == "mroot") > 3:  # more than one sign
        inside = f"<mo>(</mo>{inside}<mo>)</mo>"
    return f'<mrow>{index}<mo stretchy="false">√</mo>{inside}</mrow>'


class _Refused(Exception):
    pass


def _written(element: ElementTree.Element, escape: Callable[[str], str], depth: int) -> str:
    name = element.tag.rpartition("}")[2]
    if name not in ELEMENTS or depth > _DEEPEST:
        raise _Refused
    if name in ("msqrt", "mroot"):
        return _root(name, element, escape, depth)
    attributes = ""
    for key, value in element.attrib.items():
        if key in ("href", "src", "style", "class", "id") or key.startswith("on"):
            raise _Refused
        if key in ATTRIBUTES and _VALUE.fullmatch(value):
            attributes += f' {key}="{value}"'
    inside = escape(element.text or "")
    for child in element:
        inside += _written(child, escape, depth + 1) + escape((child.tail or "").strip())
    return f"<{name}{attributes}>{inside}</{name}>"
