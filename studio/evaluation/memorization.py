"""Answers that were memorised: long pieces of a training answer that come back where they were not asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from studio.evaluation.metrics import unicode_words

LEAST_WORDS = 20


@dataclass(frozen=True)
class Overlap:
    """``words`` words in a row that an answer has in common with the answer of a training row.

    Attributes:
        answer: the number of the answer.
        row: the training row's number in its source.
        text: the common words.
    """

    answer: int
    row: int
    words: int
    text: str


def memorised(
    outputs: Sequence[str],
    allowed: Sequence[str],
    training: Iterable[tuple[int, str]],
    *,
    least: int = LEAST_WORDS,
) -> list[Overlap]:
    """The longest piece of a training answer in each output, longest first; those below ``least`` words are left out.

    Words in a row that the prompt or the reference has too are not counted: they may be said.

    Args:
        outputs: what the model has written.
        allowed: for each of them the prompt and the reference.
        training: (row number, answer) of the rows that were trained on; gone through once.
    """
    written = [unicode_words(output) for output in outputs]
    wanted: dict[tuple[str, ...], list[int]] = {}
    for number, (words, told) in enumerate(zip(written, allowed, strict=True)):
        known = set(_grams(unicode_words(told), least))
        for gram in set(_grams(words, least)) - known:
            wanted.setdefault(gram, []).append(number)
    best: dict[int, Overlap] = {}
    if not wanted:
        return []
    for row, answer in training:
        words = unicode_words(answer)
        hits = {number for gram in _grams(words, least) for number in wanted.get(gram, ())}
        for number in hits:
            common = _longest(written[number], words, least)
            if number not in best or len(common) > best[number].words:
                best[number] = Overlap(number, row, len(common), " ".join(common))
    return sorted(best.values(), key=lambda overlap: (-overlap.words, overlap.answer))


def _grams(words: Sequence[str], length: int) -> Iterable[tuple[str, ...]]:
    return (tuple(words[at : at + length]) for at in range(len(words) - length + 1))


def _longest(first: Sequence[str], second: Sequence[str], least: int) -> Sequence[str]:
    """The longest common run of words, grown from the common n-grams."""
    places: dict[tuple[str, ...], list[int]] = {}
    for at, gram in enumerate(_grams(second, least)):
        places.setdefault(gram, []).append(at)
    best: Sequence[str] = ()
    start = 0
    while start <= len(first) - least:
        grown = 0
        for at in places.get(tuple(first[start : start + least]), ()):
            length = least
            while (
                start + length < len(first)
                and at + length < len(second)
                and first[start + length] == second[at + length]
            ):
                length += 1
            grown = max(grown, length)
        if grown > len(best):
            best = first[start : start + grown]
        start += max(1, grown - least + 1)
    return best
