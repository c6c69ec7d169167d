"""How good a classifier is, by scikit-learn's definitions, as plain values; for the training and the evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

THRESHOLD = 0.5  # the probability from which a text belongs to a class, where it may belong to several
Numbers = int | list[int]  # the number of a class, or of several


def probabilities(logits: Any, multi_label: bool) -> numpy.ndarray:
    """Logits, (texts, classes), as probabilities: of a choice between the classes, or of each class by itself."""
    logits = numpy.asarray(logits, dtype=numpy.float64)
    if multi_label:
        return 0.5 * (1 + numpy.tanh(logits / 2))  # the logistic function without overflow
    powers = numpy.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def predicted(shares: numpy.ndarray, multi_label: bool) -> list[Numbers]:
    """The class of each text, or all classes from :data:`THRESHOLD` on."""
    if multi_label:
        return [numpy.flatnonzero(row >= THRESHOLD).tolist() for row in shares]
    return shares.argmax(axis=1).tolist()


def scores(wanted: Sequence[Numbers], given: Sequence[Numbers], names: Sequence[str]) -> dict[str, Any]:
    """Accuracy, macro F1, and of each class precision, recall, F1 and how many texts it has.

    Where a text may belong to several classes, accuracy is the share of texts whose whole set is right. F1 is averaged
    over the classes that occur in ``wanted`` or in ``given``; a class that is never given has precision 0.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    truth, answer, numbers = _matrices(wanted, given, len(names))
    parts = precision_recall_fscore_support(truth, answer, labels=numbers, zero_division=0)
    precision, recall, f1, support = (part.tolist() for part in parts)
    occurs = [bool(s) or number in _given(given) for number, s in zip(numbers, support, strict=True)]
    counted = [value for value, there in zip(f1, occurs, strict=True) if there]
    return {
        "accuracy": float(accuracy_score(truth, answer)),
        "macro_f1": sum(counted) / len(counted) if counted else 0.0,
        "per_class": {
            name: {"precision": p, "recall": r, "f1": f, "rows": int(s)}
            for name, p, r, f, s in zip(names, precision, recall, f1, support, strict=True)
        },
    }


def confusion(wanted: Sequence[Numbers], given: Sequence[Numbers], names: Sequence[str]) -> dict[str, Any]:
    """The table of what was wanted (rows) and given (columns): ``{"labels", "counts"}``.

    Where a text may belong to several classes there is one table for each class, of no and yes.
    """
    from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix

    truth, answer, numbers = _matrices(wanted, given, len(names))
    several = truth.ndim == 2
    table = (multilabel_confusion_matrix if several else confusion_matrix)(truth, answer, labels=numbers)
    return {"labels": list(names), "counts": table.tolist(), "multi_label": several}


def _given(given: Sequence[Numbers]) -> set[int]:
    return {number for one in given for number in (one if isinstance(one, list) else [one])}


def _matrices(
    wanted: Sequence[Numbers], given: Sequence[Numbers], size: int
) -> tuple[numpy.ndarray, numpy.ndarray, list[int]]:
    """As scikit-learn takes them: (texts,) numbers, or (texts, classes) of 0 and 1."""
    if any(isinstance(one, list) for one in wanted):
        return _marked(wanted, size), _marked(given, size), list(range(size))
    return numpy.array(wanted), numpy.array(given), list(range(size))


def _marked(sets: Sequence[Any], size: int) -> numpy.ndarray:
    marks = numpy.zeros((len(sets), size), dtype=numpy.int64)
    for row, numbers in zip(marks, sets, strict=True):
        row[numbers] = 1
    return marks
