"""How long a run is, before it starts. Loads nothing heavy."""

from __future__ import annotations

import math
from typing import Any

from studio.models.progress import Report, quiet
from studio.recipe import Recipe


def planned_steps(rows: int, train: Any, devices: int = 1) -> int:
    """How many optimizer steps a run over so many rows takes, as transformers' ``Trainer`` counts them.

    Args:
        rows: rows that are trained on, the held-out and dropped ones taken off.
        train: a ``TrainSpec`` or transformers' ``TrainingArguments``: the names are the same.
        devices: how many take part; each has a batch of its own.
    """
    if train.max_steps > 0:
        return train.max_steps
    batches = math.ceil(rows / (train.per_device_train_batch_size * devices))
    per_epoch = max(1, math.ceil(batches / train.gradient_accumulation_steps))
    return math.ceil(per_epoch * train.num_train_epochs)


def rows_to_train(recipe: Recipe, progress: Report = quiet) -> int:
    """How many rows a run of ``recipe`` trains on: what the worker's encoder keeps of the training split.

    A model that is not on this disk yet has no tokenizer to ask, so then no row counts as dropped.

    Raises:
        StudioError: the data cannot be read, or no row is left.
    """
    from studio.data import encode_rows, load_conversations, split_conversations
    from studio.models.store import local_folder

    progress("Reading the data", 0, 0)
    rows, _ = split_conversations(load_conversations(recipe.data), recipe.data.holdout, recipe.train.seed)
    folder = local_folder(recipe.model)
    if folder is None:
        return len(rows)
    from studio.models.chat import prepare_chat
    from studio.models.load import load_tokenizer

    tokenizer = load_tokenizer(folder, trust_remote_code=recipe.model.trust_remote_code)
    prepare_chat(tokenizer, None, recipe.data.chat_template)
    kept, _ = encode_rows(tokenizer, rows, recipe.data, lambda done: progress("Encoding the data", done, len(rows)))
    return len(kept)
