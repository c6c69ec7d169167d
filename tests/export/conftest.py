"""Tuned models on a tiny base, to be shipped."""

import pytest
from lessons import lesson, write_rows

from studio.recipe.methods import METHODS


@pytest.fixture
def run_of(home, tiny_model, tmp_path, kept_runs):
    """A function that gives a run of three steps with a method."""
    rows = write_rows(tmp_path / "rows.jsonl", 16)

    def made(kind="lora", model=tiny_model, data=None, **fields):
        method = {"kind": kind, **fields}
        recipe = lesson(model, rows, method=method, learning_rate=METHODS[kind].suggested, max_steps=3)
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update=data or {})})
        return kept_runs.run_of(recipe, rows)

    return made
