"""Small runs that put texts into classes by a trivial rule, for the tests of the classifier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from studio.recipe import Recipe

WORDS = {"animal": ("dog", "cat", "fox"), "place": ("france", "paris", "order"), "sum": ("adds", "numbers", "add")}


def rows_of(count: int = 96) -> list[dict[str, Any]]:
    """Texts of words that all tell the class; ``animal`` is the commonest."""
    kinds, rows = ("animal", "animal", "place", "sum"), []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        digits = (number // 27 % 3, number // 9 % 3, number // 3 % 3, number % 3)
        rows.append({"text": " ".join(WORDS[kind][digit] for digit in digits), "label": kind})
    return rows


def several_of(count: int = 96) -> list[dict[str, Any]]:
    """Texts with none, one or two of three classes, each told by its words."""
    rows, kinds = [], list(WORDS)
    for number in range(count):
        names = [kind for bit, kind in enumerate(kinds) if number >> bit & 1][:2]
        words = [WORDS[name][(number // 8 + turn * (1 + number // 24)) % 3] for turn in range(2) for name in names]
        rows.append({"text": " ".join(words) or "warm sun " * (1 + number % 5), "labels": names})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def class_lesson(
    model: Path, rows: Path, *, method: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **train: Any
) -> Recipe:
    """A recipe over these rows with this model; ``data`` and ``train`` change its settings."""
    settings = {"max_steps": 40, "per_device_train_batch_size": 16, "learning_rate": 0.01, "warmup_steps": 2}
    settings |= {"eval_steps": 15, "save_steps": 10, "save_total_limit": 10, "device": "cpu", "seed": 7}
    return Recipe.parse(
        {
            "name": "classes",
            "model": {"id": str(model), "dtype": "float32", "task": "seq_cls"},
            "data": {"source": str(rows), "holdout": 0.25, "max_length": 48, **(data or {})},
            "method": method or {"kind": "lora", "r": 8, "lora_alpha": 16},
            "train": settings | train,
        }
    )
