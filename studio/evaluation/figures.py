"""Two models' answers to the same rows as figures: each metric's mean, how sure it is, and whether they differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from studio.evaluation.metrics import METRICS, Metric, mean, perplexity
from studio.evaluation.statistics import interval, paired_p

SIDES = ("base", "tuned")


def scores(outputs: Sequence[str], references: Sequence[str], metric: Metric) -> list[float | None]:
    """A metric of each answer."""
    return [metric.score(output, reference) for output, reference in zip(outputs, references, strict=True)]


def answer_figures(
    outputs: Mapping[str, Sequence[str]], references: Sequence[str], metrics: Iterable[Metric] | None = None
) -> dict[str, Any]:
    """Every metric that says something about these rows.

    Args:
        outputs: the answers of each model, by its name.
        references: the answer that each row has.

    Returns:
        ``{"means": {name: {key: mean}}, "intervals": {name: {key: [low, high]}}, "p_values": {key: p}, "counts": {key:
        rows}}``; a p-value only for two models. A metric's mean is over the rows about which it says something for
        every model.
    """
    metrics = list(METRICS.values() if metrics is None else metrics)
    return figures_of({n: {m.key: scores(given, references, m) for m in metrics} for n, given in outputs.items()})


def figures_of(values: Mapping[str, Mapping[str, Sequence[float | None]]]) -> dict[str, Any]:
    """The same from each model's values, by its name and the metric's key: a number a row, or None."""
    keys = list(next(iter(values.values()), {}))
    found: dict[str, Any] = {
        "means": {name: {} for name in values},
        "intervals": {name: {} for name in values},
        "p_values": {},
        "counts": {},
    }
    for key in keys:
        each = {name: of[key] for name, of in values.items()}
        rows = [at for at, row in enumerate(zip(*each.values(), strict=True)) if None not in row]
        if not rows:
            continue
        kept = {name: [float(of[at]) for at in rows] for name, of in each.items()}
        found["counts"][key] = len(rows)
        for name, numbers in kept.items():
            found["means"][name][key] = mean(numbers)
            found["intervals"][name][key] = _ends(interval(numbers))
        if len(kept) == len(SIDES):
            found["p_values"][key] = paired_p(*kept.values())
    return found


def loss_figures(totals: Mapping[str, Sequence[float]], tokens: Sequence[int]) -> dict[str, Any]:
    """The loss over all tokens of both models, and its perplexity, as :func:`answer_figures` gives its figures.

    Args:
        totals: the negative log-likelihood of each row, summed over its tokens (nats), by the model's name.
        tokens: how many tokens each row has.
    """
    means, intervals = {}, {}
    for name, each in totals.items():
        loss, around = sum(each) / sum(tokens), _ends(interval(each, tokens))
        means[name] = {"loss": loss, "perplexity": _finite(perplexity(loss))}
        intervals[name] = {"loss": around, "perplexity": around and [_finite(perplexity(end)) for end in around]}
    p = paired_p(*totals.values()) if len(totals) == len(SIDES) else None
    return {"means": means, "intervals": intervals, "p_values": {} if p is None else {"loss": p, "perplexity": p}}


def _ends(around: tuple[float, float] | None) -> list[float] | None:
    return None if around is None else list(around)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
