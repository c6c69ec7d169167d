"""What sets answers apart, as HTML: words that differ from another answer, and how sure the model was of each token."""

from __future__ import annotations

import difflib
import math
import re

from studio.ui import markup

_WORDS = 3_000  # of each text that are compared
_WORD = re.compile(r"\w+\s*|[^\w\s]\s*|\s+")


def differences(text: str, other: str, mark: str = "ins") -> str:
    """``text`` with the words that ``other`` does not have in their place marked; blanks do not count.

    Args:
        mark: the element around such words.
    """
    words, others = _WORD.findall(text), _WORD.findall(other)
    mine, theirs = words[:_WORDS], others[:_WORDS]
    # words that are everywhere are no anchors (autojunk): a text that repeats itself would take minutes otherwise
    matcher = difflib.SequenceMatcher(None, [word.strip() for word in mine], [word.strip() for word in theirs])
    parts, at = [], 0
    for block in matcher.get_matching_blocks():
        if block.a > at:
            own = markup.escape("".join(mine[at : block.a]))
            parts.append(f"<{mark}>{own}</{mark}>" if own.strip() else own)
        parts.append(markup.escape("".join(mine[block.a : block.a + block.size])))
        at = block.a + block.size
    left = len(words) - len(mine)
    rest = f'<p class="note">Compared up to word {_WORDS:,}; {left:,} more follow.</p>' if left > 0 else ""
    return f'<div class="plain">{"".join(parts)}</div>{rest}'


def probabilities(text: str, odds: list[list[int]]) -> str:
    """``text`` with a shade behind each token: the darker, the less likely it was. Pointing at it tells the number.

    Args:
        odds: for each piece of the text its length in characters, and the natural logarithm of its tokens' probability
            in hundredths, as :func:`tally` makes them.
    """
    spans, at = [], 0
    for length, hundredths in odds:
        shown = text[at : at + length]
        at += length
        probability = math.exp(hundredths / 100)
        doubt = round((1 - probability) * 70)
        spans.append(f'<span style="--doubt:{doubt}%" title="{probability:.3f}">{markup.escape(shown)}</span>')
    return f'<div class="plain odds">{"".join(spans)}{markup.escape(text[at:])}</div>'


def tally(odds: list[list[int]], held: float, text: str, log_probability: float | None) -> float:
    """Take one streamed piece into ``odds``; tokens without text of their own (half a character) count for the next.

    Args:
        held: the logarithm of what was held back so far.

    Returns:
        What is held back now.
    """
    held += log_probability or 0.0
    if not text:
        return held
    odds.append([len(text), round(100 * held)])
    return 0.0
