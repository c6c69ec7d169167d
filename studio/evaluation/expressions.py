"""Regular expressions that a person writes: bounded before they are compiled, and searched with a time limit."""

from __future__ import annotations

import re

from studio.errors import StudioError

SECONDS = 1.0
_LONGEST = 1000  # characters
_MOST_PARTS = 100_000  # after repetitions are written out, as the regex package does
_PIECE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*+\]|\{(\d*+)(?:,(\d*+))?\}|.", re.DOTALL)


def check_expression(pattern: str, name: str) -> None:
    """Raise if a pattern is no regular expression, or would take too much memory.

    Raises:
        StudioError: (``regex-invalid``) naming what ``name`` says.
    """
    import regex

    try:
        if len(pattern) > _LONGEST:
            raise regex.error(f"it has more than {_LONGEST:,} characters")
        if _written_out(pattern) > _MOST_PARTS:
            raise regex.error("its repetitions multiply to too many parts")
        regex.compile(pattern, regex.MULTILINE)
    except (regex.error, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise StudioError(
            f"{name} is no regular expression: {str(error)[:200]}.",
            "Correct it, or leave it out.",
            code="regex-invalid",
        ) from error


def is_found(pattern: str, text: str, name: str) -> bool:
    """Whether a pattern is found in a text, with ``^`` and ``$`` at lines.

    Raises:
        StudioError: (``regex-too-slow``) it takes longer than ``SECONDS``.
    """
    import regex

    try:
        return regex.search(pattern, text, regex.MULTILINE, timeout=SECONDS) is not None
    except TimeoutError as error:
        raise StudioError(
            f"{name} takes too long on an answer.",
            "Take nested repetitions out of its expression.",
            code="regex-too-slow",
        ) from error


def _written_out(pattern: str) -> int:
    """How many parts a pattern has when ``{n}`` is written out n times; groups in one another multiply."""
    sizes, last = [0], 0
    for piece in _PIECE.finditer(pattern):
        text = piece[0]
        if text == "(":
            sizes.append(0)
            last = 0
        elif text == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        elif piece[1] or piece[2]:
            times = max(int(number or 0) for number in (piece[1], piece[2]))
            sizes[-1] += last * max(times - 1, 0)
            last *= max(times, 1)
        else:
            sizes[-1] += 1
            last = 1
    return sum(sizes)
