"""Normalise answers before they are compared: spelling variants become equal, values stay different.

The rules follow SQuAD (https://arxiv.org/abs/1606.05250), except that they never change what an answer says: signs,
decimal points, operators and single letters stay, and a text that is not blank never becomes empty.
"""

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni")
_SUPERSCRIPT = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+")
_SIGNS = str.maketrans({"−": "-", "–": "-", "‑": "-", "‐": "-", "⁄": "/", "∕": "/"})
_QUOTES = re.compile(r"""["“”„‟«»‹›`‚‛]|['‘’](?!\()""")  # f'(x) keeps its mark
_EMPHASIS = re.compile(
    r"(?<![\w*])(\*{1,3})(?=[^\s*])([^*\n]+?)(?<=[^\s*])\1(?![\w*])|(?<!\w)_(?=[^\s_])([^_\n]+)_(?!\w)"
)
_MATH = re.compile(
    r"\$\$([^$]+)\$\$|\$(?=[^\s$])([^$\n]*[^\s$])\$(?!\d)"
    r"|\\\(((?:(?!\\\().)+?)\\\)|\\\[((?:(?!\\\[).)+?)\\\]",
    re.DOTALL,
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_ABBREVIATION = re.compile(r"(?<![\w.])(?:[^\W\d_]\.){2,}(?:[^\W\d_](?!\w))?")
_PERCENT = re.compile(r"(?<=\d)%")
_OPENING = "([{¿¡"
_CLOSING = ".,;:!?…)]}·。！？、，；：｡"
_DASHES = ("-", "—", "--", "---")
_ARTICLES = ("a", "an", "the")
_NEVER_AFTER_AN_ARTICLE = re.compile(
    "and|or|nor|but|then|because|since|is|was|are|were|be|as|in|on|at|to|of|for|with|plus|minus|times|equals|than"
)


def normalized(text: str) -> str:
    """A text with one spelling of case, punctuation, English articles and blanks.

    Removed are quotation marks, brackets and sentence marks at the ends of words, Markdown emphasis, dollar signs
    around LaTeX, commas between thousands, and the articles a, an, the in front of a word. Everything else stays:
    ``-5``, ``3.5``, ``.5``, ``C++``, ``1/2``, ``50 %`` and ``a`` as an answer of its own.
    """
    return " ".join(words(text))


def words(text: str, articles: bool = False) -> list[str]:
    """The words of :func:`normalized`; with ``articles`` a, an and the stay too.

    Only a blank text has no words: one of punctuation alone is its own single word.
    """
    found = [_trimmed(part) for part in _one_spelling(text).split()]
    kept = [(word, ended) for (word, ended) in found if word]
    kept = [pair for at, pair in enumerate(kept) if not _is_punctuation(kept, at)]
    if not kept:
        return "".join(unicodedata.normalize("NFKC", text).casefold().split()).split()
    left = kept if articles else [pair for at, pair in enumerate(kept) if not _is_article(kept, at)]
    return [word.casefold() for word, _ in left or kept]


def _one_spelling(text: str) -> str:
    """Characters that are written in several ways, in one of them."""
    text = _SUPERSCRIPT.sub(lambda found: f"^{found[0].translate(_SUPERSCRIPTS)}", text)
    text = "".join(_spaced_fraction(c) for c in text)
    text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    text = _MATH.sub(lambda found: next(part for part in found.groups() if part is not None), text)
    text = _EMPHASIS.sub(lambda found: found[2] or found[3], _QUOTES.sub("", text))
    text = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    text = _ABBREVIATION.sub(lambda found: found[0].replace(".", ""), text)
    return _PERCENT.sub(" %", text)


def _spaced_fraction(character: str) -> str:
    """``½`` with a blank before it: ``2½`` is not ``21/2``."""
    return f" {character}" if unicodedata.decomposition(character).startswith("<fraction>") else character


def _trimmed(word: str) -> tuple[str, bool]:
    """A word without brackets and sentence marks at its ends, and whether such a mark ended it."""
    start = word.lstrip(_OPENING)
    dots = len(start) - len(start.lstrip("."))
    if dots and not (dots == 1 and start[1:2].isdigit()):
        start = start[dots:].lstrip(_OPENING)
    whole = start.rstrip(_CLOSING)
    return whole, len(whole) < len(start)


def _is_punctuation(found: list[tuple[str, bool]], at: int) -> bool:
    """Whether a word is a dash of a sentence or a mark of a Markdown heading, not an operator."""
    word = found[at][0]
    if word not in _DASHES:
        return len(found) > 1 and not word.strip("#")
    around = [found[place][0] for place in (at - 1, at + 1) if 0 <= place < len(found)]
    return bool(around) and not any(len(other) == 1 or any(c.isdigit() for c in other) for other in around)


def _is_article(found: list[tuple[str, bool]], at: int) -> bool:
    """Whether a word is an English article: it stands before a word that an article can stand before.

    A letter that is an answer is none: at the end, before a mark, or a capital inside a sentence.
    """
    word, ended = found[at]
    if word.casefold() not in _ARTICLES or ended or at + 1 == len(found):
        return False
    following = found[at + 1][0]
    if word.casefold() != "a":
        return True
    if word == "A" and at and not found[at - 1][1]:
        return False
    return len(following) > 1 and following[0].isalpha() and not _NEVER_AFTER_AN_ARTICLE.fullmatch(following.casefold())
