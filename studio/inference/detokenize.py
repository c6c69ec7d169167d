"""Token ids to text, bit by bit."""

from __future__ import annotations

from collections.abc import Callable

_BROKEN = "\ufffd"  # what decoders write for bytes that are not (yet) a character


class TextSoFar:
    """Turns a growing list of token ids into pieces of text that never end inside a character.

    Decoding starts at the last piece, not at the beginning, so that a token costs the same however long the text is;
    and not at the new token either, since many tokenizers drop the blank before the first one. Text whose last
    character is incomplete is held back until it is whole (the idea of vLLM's and TGI's detokenisers).

    The pieces together are what ``decode`` makes of all ids at once.

    Args:
        decode: ids to text, with special tokens left out.
    """

    def __init__(self, decode: Callable[[list[int]], str]):
        self._decode = decode
        self._ids: list[int] = []
        self._start = 0  # the window that is decoded begins here
        self._shown = 0  # the text of the ids before this one has been given out

    def add(self, ids: list[int]) -> str:
        """The text that these ids complete; empty if there is none yet."""
        self._ids += ids
        return self._advance(last=False)

    def end(self) -> str:
        """What was held back."""
        return self._advance(last=True)

    def _advance(self, last: bool) -> str:
        before = self._decode(self._ids[self._start : self._shown])
        now = self._decode(self._ids[self._start :])
        if not last and now.endswith(_BROKEN):
            return ""
        if len(now) > len(before):
            self._start, self._shown = self._shown, len(self._ids)
        return now[len(before) :]
