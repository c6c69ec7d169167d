"""The one exception that users see."""

from __future__ import annotations

_MOST_CHARACTERS = 2000  # of a sentence
_MOST_PROBLEMS = 100  # that are spelled out in the text of several


class StudioError(Exception):
    """Something the user can mend: ``what`` went wrong and how to ``fix`` it, each one plain sentence.

    Only the edges (``studio.ui`` and ``studio.cli``) turn it into a message. Our own mistakes are assertions.

    Args:
        what: what happened, naming the file, line, field or value.
        fix: what to do about it.
        field: dotted path of the recipe field at fault (``method.r``), if there is one.
        code: a stable identifier of the kind of error, for tests and for code that reacts to it; empty if it has none.
    """

    def __init__(self, what: str, fix: str, field: str | None = None, code: str = ""):
        what, fix = _cut(what), _cut(fix)
        super().__init__(f"{what} {fix}".strip())
        self.what = what
        self.fix = fix
        self.field = field
        self.code = code

    def __reduce__(self):
        return (type(self), (self.what, self.fix, self.field, self.code))

    def __repr__(self) -> str:
        return f"StudioError({self.what!r}, {self.fix!r}, field={self.field!r})"


def _cut(text: str) -> str:
    """A sentence of a length that a person reads: values in it come from files of any size."""
    if len(text) <= _MOST_CHARACTERS:
        return text
    half = _MOST_CHARACTERS // 2
    return f"{text[:half]} … ({len(text) - 2 * half:,} characters left out) … {text[-half:]}"


class StudioErrors(StudioError):
    """Several problems reported at once; ``problems`` holds each of them."""

    def __init__(self, problems: list[StudioError]):
        assert problems, "StudioErrors needs at least one problem"
        lines = "\n".join(f"- {p.what} {p.fix}".rstrip() for p in problems[:_MOST_PROBLEMS])
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{count} found.", "")
        self.what = f"{count} found:\n{lines}"  # each problem has been cut by itself
        self.args = (self.what,)
        self.problems = problems

    def __reduce__(self):
        return (type(self), (self.problems,))
