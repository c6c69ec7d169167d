"""How long a run is, before it starts. Loads nothing heavy."""

from __future__ import annotations

import math
from typing import Any


def planned_steps(rows: int, train: Any, devices: int | None = None) -> int:
    """How many optimizer steps a run over so many rows takes, as transformers' ``Trainer`` counts them.

    Args:
        rows: rows that are trained on, the held-out and dropped ones taken off.
        train: a ``TrainSpec`` or transformers' ``TrainingArguments``: the names are the same.
        devices: how many take part, each with a batch of its own; None for ``train.num_processes``.
    """
    devices = devices or getattr(train, "num_processes", 1)
    if train.max_steps > 0:
        return train.max_steps
    batches = math.ceil(rows / (train.per_device_train_batch_size * devices))
    per_epoch = max(1, math.ceil(batches / train.gradient_accumulation_steps))
    return math.ceil(per_epoch * train.num_train_epochs)
