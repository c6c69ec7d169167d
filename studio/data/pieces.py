"""Text to token ids, piece by piece: what a generation prompt supplies and what the model writes are tokenised apart.

A piece that continues a text must not be given the blank that some tokenizers put before every text, so such a
tokenizer gets a copy without it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy

from studio.data.spans import Rendered
from studio.data.special_text import Span, Specials
from studio.errors import StudioError

Tokens = tuple[list[int], list[Span]]
_START, _CONTINUE, _TYPED = "start", "continue", "typed"


@dataclass(frozen=True)
class _Piece:
    row: int
    start: int
    end: int
    kind: str


def tokenise(
    tokenizer: Any, rows: Sequence[Rendered], specials: Specials, *, typed_as_text: bool = False
) -> list[Tokens]:
    """Tokenise rendered texts, each apart at its cuts.

    Args:
        typed_as_text: whether a special token that somebody wrote into a message becomes ordinary text.

    Returns:
        For each text its token ids, and the characters that each token stands for.

    Raises:
        StudioError: the tokenizer does not know which characters a token stands for.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise StudioError(
            "This model's tokenizer cannot say which characters a token stands for, so the mask cannot be exact.",
            "Choose a model with a fast tokenizer (tokenizer.json).",
            field="model.id",
            code="tokenizer_not_fast",
        )
    if not rows:
        return []
    continuation = _continuation(tokenizer)
    pieces = [
        piece
        for number, row in enumerate(rows)
        for piece in _pieces(number, row, specials, prefixed=continuation is not None, typed_as_text=typed_as_text)
    ]
    found: dict[_Piece, Tokens] = {}
    for kind in (_START, _CONTINUE, _TYPED):
        some = [piece for piece in pieces if piece.kind == kind]
        texts = [rows[piece.row].text[piece.start : piece.end] for piece in some]
        found |= zip(some, _tokens(tokenizer, continuation, texts, kind), strict=True)
    made: list[Tokens] = [([], []) for _ in rows]
    for piece in pieces:
        ids, offsets = found[piece]
        made[piece.row][0].extend(ids)
        shift = piece.start
        made[piece.row][1].extend([(a + shift, b + shift) for a, b in offsets] if shift else offsets)
    return made


def _pieces(number: int, row: Rendered, specials: Specials, *, prefixed: bool, typed_as_text: bool) -> list[_Piece]:
    """The pieces of a text.

    A special token parts the text anyway, so there is nothing to cut beside one. Behind a cut, a tokenizer that puts a
    blank before a text tokenises as a continuation up to the next special token.
    """
    text = row.text
    kinds = {0: _START}
    if row.bos:
        kinds[row.bos] = _START
    typed = row.typed if typed_as_text else []
    inside = {start: end for start, end in typed}
    for cut in row.cuts:
        if 0 < cut < len(text) and not _beside_special(text, cut, specials, row.typed if typed_as_text else ()):
            kinds[cut] = _CONTINUE
    for start, end in typed:
        kinds[start] = _TYPED
        if end < len(text):
            kinds.setdefault(end, _CONTINUE)
    if prefixed:
        for cut in [place for place, kind in kinds.items() if kind == _CONTINUE]:
            after = _next_special(text, cut, specials, inside)
            if after is not None:
                kinds.setdefault(after, _START)
    starts = sorted(kinds)
    return [
        _Piece(number, start, end, kinds[start])
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True)
        if end > start
    ]


def _beside_special(text: str, cut: int, specials: Specials, typed: Sequence[Span]) -> bool:
    """Whether a special token that is tokenised as such ends or begins at a place."""
    if any(cut in span for span in typed):
        return False
    if any(text.endswith(token, 0, cut) for token in specials.every):
        return True
    return any(text.startswith(token, cut) and token not in specials.strips_left for token in specials.every)


def _next_special(text: str, start: int, specials: Specials, typed: dict[int, int]) -> int | None:
    """Where the first special token behind a place begins, those aside that are tokenised as text."""
    if specials.any_token is None:
        return None
    for match in specials.any_token.finditer(text, start):
        if not any(a <= match.start() < b for a, b in typed.items()):
            return match.start()
    return None


def _tokens(tokenizer: Any, continuation: Any, texts: list[str], kind: str) -> list[Tokens]:
    if not texts:
        return []
    if kind != _START and continuation is not None:
        continuation.encode_special_tokens = kind == _TYPED
        return [
            (one.ids, whole_offsets(one.offsets)) for one in continuation.encode_batch(texts, add_special_tokens=False)
        ]
    only = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    only |= {"split_special_tokens": True} if kind == _TYPED else {}
    output = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, truncation=False, **only)
    return [
        (ids, whole_offsets(offsets))
        for ids, offsets in zip(output["input_ids"], output["offset_mapping"], strict=True)
    ]


def _continuation(tokenizer: Any) -> Any | None:
    """The tokenizer without what it adds and strips at the ends of a text; None if it does neither.

    It is made once and kept on the tokenizer, since a vocabulary may take a second to copy.
    """
    kept = getattr(tokenizer, "studio_continuation", False)
    if kept is not False:
        return kept
    backend = tokenizer.backend_tokenizer
    made = None
    parts = [repr(part) for part in (backend.normalizer, backend.pre_tokenizer) if part is not None]
    if re.search(r"Prepend|Metaspace|Strip\(|add_prefix_space=True", " ".join(parts)):
        written = json.loads(backend.to_str())
        changed = {**written, **{name: _bare(written[name]) for name in ("normalizer", "pre_tokenizer")}}
        changed |= {"truncation": None, "padding": None}
        if changed != written | {"truncation": None, "padding": None}:
            made = type(backend).from_str(json.dumps(changed))
    tokenizer.studio_continuation = made
    return made


def _bare(part: dict | None) -> dict | None:
    """A normalizer or pre-tokenizer that adds nothing before a text, and takes no blanks from its ends."""
    if part is None or part["type"] in ("Prepend", "Strip"):
        return None
    part = dict(part)
    if part["type"] == "Metaspace":
        part["prepend_scheme"] = "never"
        part.pop("add_prefix_space", None)
    elif "add_prefix_space" in part:
        part["add_prefix_space"] = False
    for several in ("normalizers", "pretokenizers"):
        if several in part:
            part[several] = [bare for bare in map(_bare, part[several]) if bare is not None]
    return part


def whole_offsets(offsets: Sequence[Span]) -> list[Span]:
    """Return offsets without holes: some tokenizers leave the blanks around a word out of its token's characters.

    A blank that no token claims belongs to the token before it if that token is empty (it is the blank), otherwise to
    the token after it.
    """
    offsets = list(offsets)
    place = numpy.fromiter(chain.from_iterable(offsets), numpy.int64, 2 * len(offsets))
    starts, ends = place[::2], place[1::2]
    if (ends > starts).all() and (starts[1:] <= ends[:-1]).all() and not starts[:1].any():
        return offsets
    whole, covered = [], 0
    for index, (start, end) in enumerate(offsets):
        if end <= start:  # an empty token: it is the blank up to where the next token begins
            following = next((s for s, e in offsets[index + 1 :] if e > s), start)
            start, end = covered, max(covered, following)
        elif start > covered:
            start = covered
        whole.append((start, end))
        covered = max(covered, end)
    return whole
