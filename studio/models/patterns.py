"""Regular expressions that users write: matched within a time limit, while other threads go on."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

from studio.errors import StudioError

SECONDS = 1.0  # for all matches of one recipe together
_MOST_CHARACTERS = 2000
_MOST_REPETITIONS = 6  # that follow each other; "(.*\\.)?" before a pattern is one
_SMALL_REPEAT = 20
_TOO_MANY = 1000


class Patterns:
    """The expressions of one recipe or adapter, with one time limit for all of them.

    Args:
        section: before the field's name in messages: ``method.``.
    """

    def __init__(self, section: str = "method."):
        self._section = section
        self._left = SECONDS

    def fits(self, pattern: str, name: str, field: str) -> bool:
        """Whether an expression fits a whole name.

        Raises:
            StudioError: it is no regular expression (code ``pattern_invalid``), or takes too long (``pattern_slow``).
        """
        compiled = self._compiled(pattern, field)
        begun = time.monotonic()
        try:
            return compiled.fullmatch(name, timeout=max(0.001, self._left), concurrent=True) is not None
        except TimeoutError as error:
            raise self._slow(pattern, field) from error
        finally:
            self._left -= time.monotonic() - begun

    def _compiled(self, pattern: str, field: str) -> Any:
        if self._left <= 0:
            raise self._slow(pattern, field)
        if len(pattern) > _MOST_CHARACTERS:
            raise self._invalid(pattern, field, f"it has more than {_MOST_CHARACTERS:,} characters")
        found = _compile(pattern)
        if isinstance(found, str):
            raise self._invalid(pattern, field, found)
        if found is False:
            raise self._slow(pattern, field)
        return found

    def _slow(self, pattern: str, field: str) -> StudioError:
        return StudioError(
            f"{self._section}{field} has {pattern[:200]!r}, which takes too long to match.",
            "Take repetitions within repetitions out of it, or name the modules as they are.",
            field=f"{self._section}{field}",
            code="pattern_slow",
        )

    def _invalid(self, pattern: str, field: str, reason: str) -> StudioError:
        return StudioError(
            f"{self._section}{field} has {pattern[:200]!r}, which is not a regular expression: {reason}.",
            "Name the modules as they are.",
            field=f"{self._section}{field}",
            code="pattern_invalid",
        )


@cache
def _compile(pattern: str) -> Any:
    """The compiled expression, or why it is none; False for one that could take very long.

    PEFT matches with Python's own ``re``, which has no time limit and tries every way to divide a name among nested
    repetitions. So an expression with a repetition within a repetition is not used, whatever the time that it takes
    here.
    """
    import re

    import regex

    try:
        re.compile(pattern)
        parsed = re._parser.parse(pattern)
        if _repetitions(parsed, within=False) > _MOST_REPETITIONS:
            return False
        return regex.compile(pattern, regex.VERSION0)
    except (re.error, regex.error, RecursionError, OverflowError, MemoryError) as error:
        return str(error)[:200] or type(error).__name__


def _repetitions(parsed: Any, within: bool) -> int:
    """How many repetitions without a small bound follow each other in a parsed expression; too many if they nest."""
    count = 0
    for kind, arguments in parsed:
        name = str(kind)
        if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            _, most, body = arguments
            endless = most > _SMALL_REPEAT
            if endless and within:
                return _TOO_MANY
            inner = _repetitions(body, within or endless)
            count += inner * max(1, min(most, _SMALL_REPEAT)) if not endless else 1 + inner
        elif name == "SUBPATTERN":
            count += _repetitions(arguments[-1], within)
        elif name == "BRANCH":
            count += max(_repetitions(part, within) for part in arguments[1])
        elif name in ("ASSERT", "ASSERT_NOT"):
            count += _repetitions(arguments[1], within)
        elif name == "ATOMIC_GROUP":
            count += _repetitions(arguments, within)
        elif name == "GROUPREF_EXISTS":
            count += sum(_repetitions(part, within) for part in arguments[1:] if part is not None)
    return count
