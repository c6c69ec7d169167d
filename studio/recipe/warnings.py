"""What of a sound recipe is probably a mistake: said before and in a run, which trains nevertheless.

The learning rates come from the methods themselves (:meth:`studio.recipe.methods.Method.usual_rates`), from which the
page's suggestion comes too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from studio.errors import StudioError
from studio.recipe.methods import METHODS

if TYPE_CHECKING:
    from studio.recipe import Recipe

_RATE, _WARMUP = "train.learning_rate", "train.warmup_steps"
_NO_WARMUP = ("constant",)  # schedules of transformers that ignore warmup_steps


def warnings(recipe: Recipe, steps: int | None = None) -> list[StudioError]:
    """The warnings about a recipe, each with a stable ``code``.

    Args:
        steps: how many optimizer steps the run takes, where that is known; None goes by ``train.max_steps`` alone.
    """
    return [*_learning_rate(recipe), *_warmup(recipe, steps)]


def safer_rate(kind: str, rate: float) -> float:
    """The learning rate to go down to from one that was too high: a tenth, or the method's suggestion if that is
    lower still."""
    return float(f"{min(rate / 10, METHODS[kind].suggested):.1g}")


def _learning_rate(recipe: Recipe) -> Iterator[StudioError]:
    method, optimizer, rate = METHODS[recipe.method.kind], recipe.train.optim, recipe.train.learning_rate
    low, high = method.usual_rates()
    if "lion" in optimizer:  # wants a third to a tenth of AdamW's learning rate
        low, high = low / 10, high / 3
    if optimizer == "sgd":  # its steps are not scaled by the gradient's size
        high = 1.0
    usual = f"{method.title} is usually trained with {low:g} to {high:g}."
    if rate > high:
        yield StudioError(
            f"The learning rate {rate:g} is higher than usual, and the loss may diverge.",
            f"{usual} Start with {method.suggested:g}.",
            field=_RATE,
            code="learning_rate_high",
        )
    elif rate < low:
        yield StudioError(
            f"The learning rate {rate:g} is lower than usual, and the model may learn nothing.",
            f"{usual} Start with {method.suggested:g}.",
            field=_RATE,
            code="learning_rate_low",
        )


def _warmup(recipe: Recipe, steps: int | None) -> Iterator[StudioError]:
    train = recipe.train
    if steps is None:
        steps = train.max_steps if train.max_steps > 0 else None
    if not steps or train.warmup_steps < max(2, steps) or train.lr_scheduler_type in _NO_WARMUP:
        return
    yield StudioError(
        f"The run has {steps:,} steps and warms up for {train.warmup_steps:,}, so it never reaches its learning rate.",
        f"Set train.warmup_steps to {steps // 10}, or train longer.",
        field=_WARMUP,
        code="warmup_whole_run",
    )
