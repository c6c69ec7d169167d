"""Near duplicates: rows that share most of their words, found by MinHash signatures and locality-sensitive hashing.

Two rows are near duplicates if the sets of their runs of three words (shingles) overlap by about four fifths
(Jaccard similarity), the measure that large training sets are cleaned by (https://arxiv.org/abs/2107.06499). The
library is datasketch.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Any

import numpy

SIMILARITY = 0.72  # estimated, so that hardly any two rows of 0.8 and above are missed
_PERMUTATIONS = 64
_SCHEME = "affine32"  # 32-bit multiplications, the quickest of datasketch
_SHINGLE = 3  # words
_MIX = numpy.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D], numpy.uint32)  # odd: the order of the words counts
_LEAST = 10  # words; of shorter texts only equal ones are duplicates
_MOST = 2000  # words of a text that are looked at
_SIGNS = str.maketrans(dict.fromkeys(".,;:!?\"'()[]{}<>*_#`“”‘’„…。，、！？；：「」（）", " "))


def comparable(row: dict[str, Any]) -> str:
    """What of a row is compared: all that is said but the system message, which many rows share."""
    if row.get("messages"):
        return "\n".join(
            _said(message) for message in row["messages"] if message["role"] != "system" or len(row["messages"]) == 1
        )
    return row.get("text") or " ".join(map(str, row.get("input_ids") or []))


def _said(message: dict[str, Any]) -> str:
    more = [str(message[key]) for key in ("reasoning_content", "tool_calls") if message.get(key)]
    return " ".join([message["content"], *more]) if more else message["content"]


@lru_cache(maxsize=1)
def _seeds() -> tuple[Any, Any]:
    """The permutations that all signatures are made with."""
    from datasketch import MinHash

    return MinHash(num_perm=_PERMUTATIONS, seed=1, scheme=_SCHEME).permutations


@lru_cache(maxsize=1 << 16)
def _word_hash(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


def _words(text: str) -> list[str]:
    """The words of a text without the signs around them; the characters of one that is not written in words."""
    text = text[: _MOST * 12]
    words = text.translate(_SIGNS).split()
    return list("".join(words)) if len(text) > 25 * len(words) else words[:_MOST]


def signature(text: str) -> numpy.ndarray | None:
    """The MinHash of a text's shingles, 64 numbers of 32 bits; of a short text one that only an equal one has."""
    from datasketch import MinHash

    words = _words(text.casefold())
    hashes = numpy.fromiter(map(_word_hash, words), numpy.uint32, len(words))
    if len(words) < _LEAST:
        shingles = [zlib.crc32(hashes.tobytes())]
    else:
        mixed = sum(hashes[i : len(words) - _SHINGLE + 1 + i] * _MIX[i] for i in range(_SHINGLE))
        shingles = numpy.unique(mixed).tolist()
    made = MinHash(num_perm=_PERMUTATIONS, hashfunc=int, permutations=_seeds(), scheme=_SCHEME)
    made.update_batch(shingles)
    return made.hashvalues.astype(numpy.uint32)


class Clusters:
    """Groups of near duplicates, built up row by row. A group is named by its first row."""

    def __init__(self) -> None:
        from datasketch import MinHashLSH

        self._index = MinHashLSH(threshold=SIMILARITY, num_perm=_PERMUTATIONS, weights=(0.2, 0.8))
        self._signatures: dict[int, numpy.ndarray] = {}
        self._seen: dict[bytes, int] = {}
        self._parent: dict[int, int] = {}

    def add(self, row: int, made: numpy.ndarray) -> int | None:
        """Take in a row with its signature.

        Returns:
            An earlier row that it is a near duplicate of, or None.
        """
        from datasketch import MinHash

        self._parent[row] = row
        same = self._seen.setdefault(made.tobytes(), row)
        if same != row:  # the same words
            self._join(row, same)
            return same
        hashed = MinHash(num_perm=_PERMUTATIONS, hashvalues=made, permutations=_seeds(), scheme=_SCHEME)
        near = [r for r in self._index.query(hashed) if (self._signatures[r] == made).mean() >= SIMILARITY]
        self._index.insert(row, hashed, check_duplication=False)
        self._signatures[row] = made
        for other in near:
            self._join(row, other)
        return min(near, default=None)

    def group(self, row: int) -> int:
        """The first row of the group that a row is in."""
        while self._parent[row] != row:
            self._parent[row] = self._parent[self._parent[row]]
            row = self._parent[row]
        return row

    def _join(self, row: int, other: int) -> None:
        one, two = sorted((self.group(row), self.group(other)))
        self._parent[two] = one
