"""Multiple-choice questions: the choices in the forms that datasets use, and the choice that the answer names."""

from __future__ import annotations

import json
import re
from typing import Any

from studio.data.turns import Messages, RowRejected, text_of

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_OWN_LABEL = re.compile(r"\s*\(?([A-Za-z])[).:]\s*")  # "A) Paris", "(a) Paris"
_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")


def choices_of(value: Any) -> tuple[list[str], list[str]] | None:
    """Return the labels and the texts of the choices; None if the value holds no choices.

    Known forms: a list of texts, a list of ``{"label", "text"}``, ``{"label": [...], "text": [...]}``,
    ``{"A": ..., "B": ...}``, and each of them as JSON text.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    labels: Any = None
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        labels, texts = value.get("label"), value["text"]
    elif isinstance(value, dict):
        pairs = {key: text for key, text in value.items() if text is not None}
        labels, texts = list(pairs), list(pairs.values())
    elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        labels = [one.get("label", one.get("key", one.get("id"))) for one in value]
        texts = [one.get("text", one.get("value")) for one in value]
    else:
        texts = value
    if not isinstance(texts, list) or len(texts) < 2 or len(texts) > len(_LETTERS):
        return None
    if not all(isinstance(text, (str, int, float)) and str(text).strip() for text in texts):
        return None
    texts = [text_of(text, "choices").strip() for text in texts]
    own = [_OWN_LABEL.match(text) for text in texts]
    if not labels and all(match and match[1].upper() == _LETTERS[i] for i, match in enumerate(own)):
        texts = [text[match.end() :] for text, match in zip(texts, own, strict=True)]
    known = isinstance(labels, list) and len(labels) == len(texts) and None not in labels
    return ([str(label).strip() for label in labels] if known else list(_LETTERS[: len(texts)])), texts


def position(answer: Any, labels: list[str], texts: list[str], first_index: int = 0) -> int | None:
    """Return the place (from 0) of the choice that an answer names: by its label, its text, its letter or its number.

    Args:
        first_index: the number of the first choice in this dataset, 0 or 1.
    """
    if isinstance(answer, bool) or answer is None:
        return None
    written = text_of(answer, "answer").strip()
    number = _number(answer)
    if isinstance(answer, str) or number is None:
        for known in (labels, texts):
            if known.count(written) == 1:
                return known.index(written)
        if (letter := _LETTER.fullmatch(written)) and (place := _LETTERS.index(letter[1].upper())) < len(texts):
            return place
        own = _OWN_LABEL.match(written)  # "B. Paris": the letter counts if the text behind it is that choice
        if own and written[own.end() :] in texts:
            return texts.index(written[own.end() :])
    elif written in labels:
        return labels.index(written)
    if number is not None and 0 <= number - first_index < len(texts):
        return number - first_index
    return None


def _number(answer: Any) -> int | None:
    """Return a whole number, also one that is written as text or, in a column with gaps, as 1.0."""
    try:
        value = float(answer)
    except (TypeError, ValueError):
        return None
    return int(value) if value.is_integer() else None


def first_index(rows: list[tuple[Any, Any]]) -> tuple[int, bool]:
    """Return the number of the first choice, found from (choices, answer) of some rows, and whether that is certain.

    Answers that are no numbers need no first number.
    """
    numbers: list[tuple[int, int]] = []
    for value, answer in rows:
        found = choices_of(value)
        number = _number(answer) if found and not isinstance(answer, bool) else None
        written = str(answer).strip()
        if number is None or written in found[0] or (isinstance(answer, str) and written in found[1]):
            continue
        numbers.append((number, len(found[1])))
    if any(number == 0 for number, _ in numbers):
        return 0, True
    if any(number == count for number, count in numbers):
        return 1, True
    return 0, not numbers


def convert(parts: dict[str, Any]) -> Messages:
    """Return the question with its choices as the user's message, and the right choice as the answer.

    Raises:
        RowRejected: the question is empty, there are no choices, or the answer names none of them.
    """
    question = text_of(parts["question"], "question")
    if not question.strip():
        raise RowRejected("question is empty")
    found = choices_of(parts["choices"])
    if found is None:
        raise RowRejected("choices is not a list of texts", code="choices")
    labels, texts = found
    place = position(parts["answer"], labels, texts, parts.get("first_index") or 0)
    if place is None:
        raise RowRejected(f"its answer {str(parts['answer'])[:40]!r} names none of its choices", code="choices")
    lines = [f"{label}. {text}" for label, text in zip(labels, texts, strict=True)]
    context = text_of(parts.get("context"), "context")
    user = "\n\n".join([*([context] if context.strip() else []), question, "\n".join(lines)])
    return [{"role": "user", "content": user}, {"role": "assistant", "content": lines[place]}]
