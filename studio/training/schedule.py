"""The learning rate at a step, without torch, so that the page can say it before a run starts."""

from __future__ import annotations

import math

from studio.recipe import TrainSpec

_POLYNOMIAL_END = 1e-7  # transformers' learning rate at the end of a polynomial decay


def rate_at(train: TrainSpec, step: int, total: int, start: int = 0) -> float:
    """The learning rate with which the step after ``step`` is taken, as transformers' schedules compute it.

    Args:
        step: optimizer steps done.
        total: the last step of the run.
        start: the step after which the schedule begins.
    """
    peak, kind = train.learning_rate, train.lr_scheduler_type
    done, steps = max(0, step - start), max(1, total - start)
    warmup = train.warmup_steps
    if kind == "constant":
        return peak
    if kind != "warmup_stable_decay" and done < warmup:
        return peak * done / max(1, warmup)
    if kind == "constant_with_warmup":
        return peak
    after, length = done - warmup, max(1, steps - warmup)
    if kind == "linear":
        return peak * max(0.0, (steps - done) / length)
    if kind == "cosine":
        return peak * max(0.0, 0.5 * (1 + math.cos(math.pi * after / length)))
    if kind == "polynomial":
        if done > steps:
            return _POLYNOMIAL_END
        return (peak - _POLYNOMIAL_END) * (1 - after / (steps - warmup)) + _POLYNOMIAL_END
    if kind == "inverse_sqrt":
        scale = warmup or 10_000
        return peak / math.sqrt((done + scale - warmup) / scale)
    assert kind == "warmup_stable_decay", kind
    decay = max(1, int(steps * train.decay_share))
    stable = steps - warmup - decay
    if done < warmup:
        return peak * done / max(1, warmup)
    if done < warmup + stable:
        return peak
    if done < warmup + stable + decay:
        return peak * max(0.0, 0.5 * (1 + math.cos(math.pi * (done - warmup - stable) / decay)))
    return 0.0
