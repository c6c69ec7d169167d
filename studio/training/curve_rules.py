"""What goes wrong in a curve, each as a small rule that is fed with the logged points and speaks at most once.

Pure: numbers in, words out. ``studio.training.diagnostics`` feeds them and writes what they say into the run's events.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median
from typing import NamedTuple


class Point(NamedTuple):
    """What is known at a step. A logged step has ``loss`` and ``grad_norm``, a measurement ``eval_loss``."""

    step: int
    loss: float | None = None
    grad_norm: float | None = None
    eval_loss: float | None = None


@dataclass(frozen=True)
class Settings:
    """What of the recipe the rules go by, with the recipe's own names.

    Attributes:
        safer_rate: the learning rate to propose where the recipe's is too high.
        steps: logged steps of the whole run.
        warmup: logged steps over which the learning rate rises.
    """

    learning_rate: float = 1e-3
    safer_rate: float = 1e-4
    steps: int = 100
    warmup: int = 0
    keep_best: bool = False


class Advice(NamedTuple):
    what: str
    fix: str


class Rule:
    """Feed :meth:`see` every point in order; it gives its advice once, and then never again."""

    name = ""

    def __init__(self, settings: Settings | None = None):
        self.settings = settings or Settings()
        self.said = False

    def see(self, point: Point) -> Advice | None:
        if self.said:
            return None
        advice = self.look(point)
        self.said = advice is not None
        return advice

    def look(self, point: Point) -> Advice | None:
        raise NotImplementedError


class Smoothed:
    """Exponential moving average, corrected for its start (Kingma & Ba 2015, section 3)."""

    def __init__(self, weight: float):
        self._weight, self._mean, self._share = weight, 0.0, 0.0

    def add(self, value: float) -> float:
        self._mean = self._weight * self._mean + (1 - self._weight) * value
        self._share = self._weight * self._share + (1 - self._weight)
        return self._mean / self._share


class Divergence:
    """Whether the loss has left for good: above ``factor`` times what it started at, and at least ``margin`` more, for
    ``patience`` logged steps in a row. The start is the lowest smoothed loss of the first ten logged steps, so that a
    run that leaves at once is held against its very first steps.

    Attributes:
        limit: the loss that is too high; None before the first point.
        above: how many logged steps in a row were.
    """

    FIRST = 10

    def __init__(self, factor: float = 2.0, margin: float = 1.0, patience: int = 5):
        self._factor, self._margin, self._patience = factor, margin, patience
        self._smoothed, self._seen = Smoothed(0.8), 0
        self.start = math.inf
        self.limit: float | None = None
        self.above = 0

    def see(self, loss: float) -> bool:
        """Whether the run has diverged with this point."""
        if self._seen < self.FIRST:
            self.start = min(self.start, self._smoothed.add(loss))
            self.limit = max(self._factor * self.start, self.start + self._margin)
        self._seen += 1
        self.above = self.above + 1 if loss > self.limit else 0
        return self.above >= self._patience


class FlatLoss(Rule):
    """No progress beyond noise over the first part of a run.

    Mann's test for a trend (Nonparametric tests against trend, Econometrica 13, 1945): of all pairs of points, how many
    more fall than rise. It needs no assumption about the noise, and a loss that fell early and then stays has fallen.
    """

    name = "flat_loss"
    LEAST = 30
    CERTAIN = 1.645  # of a standard normal: one-sided, 5 %

    def __init__(self, settings: Settings | None = None):
        super().__init__(settings)
        self._wanted = max(self.LEAST, min(200, self.settings.steps // 10), self.settings.warmup + 20)
        self._losses: list[float] = []
        self._measured: list[float] = []

    def look(self, point: Point) -> Advice | None:
        if point.eval_loss is not None:
            self._measured.append(point.eval_loss)
        if point.loss is None or len(self._losses) >= self._wanted:
            return None
        self._losses.append(point.loss)
        if len(self._losses) < self._wanted or falls(self._losses) > self.CERTAIN:
            return None
        if len(self._measured) > 1 and self._measured[-1] < 0.99 * self._measured[0]:
            return None  # the noise hides what the validation shows
        rate = self.settings.learning_rate
        higher = min(1.0, 10 * rate)
        return Advice(
            f"The training loss has not fallen over the first {self._wanted} logged steps "
            f"(it is about {mean(self._losses[-10:]):.3g}).",
            f"Raise train.learning_rate from {rate:g} to {higher:.1g}, and look in the preview whether the answers "
            "carry the loss.",
        )


def falls(values: list[float]) -> float:
    """Mann's statistic of a falling trend, in standard deviations of what pure noise would give."""
    count = len(values)
    balance = sum((a > b) - (a < b) for i, a in enumerate(values) for b in values[i + 1 :])
    return balance / math.sqrt(count * (count - 1) * (2 * count + 5) / 18)


class HighLearningRate(Rule):
    """The loss rises early, or the norm of the gradient keeps leaping.

    That a loss which turns upwards shows too high a rate is the range test of Smith (https://arxiv.org/abs/1506.01186);
    that loss spikes of large models come with leaps of the gradient's norm is in PaLM (https://arxiv.org/abs/2204.02311,
    section 5.1).
    """

    name = "high_learning_rate"
    EARLY = 50  # logged steps
    RISES, MARGIN, IN_A_ROW = 1.5, 0.3, 3
    LEAP, LEAPS, AMONG, KNOWN = 10.0, 3, 50, 20

    def __init__(self, settings: Settings | None = None):
        super().__init__(settings)
        self._smoothed, self._lowest, self._high, self._seen = Smoothed(0.6), math.inf, 0, 0
        self._norms: deque[float] = deque(maxlen=self.AMONG)
        self._leaps: deque[int] = deque(maxlen=self.LEAPS)

    def look(self, point: Point) -> Advice | None:
        if point.loss is None:
            return None
        self._seen += 1
        return self._rising(point.loss) or self._leaping(point.grad_norm)

    def _rising(self, loss: float) -> Advice | None:
        if self._seen > max(self.EARLY, self.settings.warmup + 20):
            return None
        now = self._smoothed.add(loss)
        self._high = self._high + 1 if now > max(self.RISES * self._lowest, self._lowest + self.MARGIN) else 0
        self._lowest = min(self._lowest, now)
        if self._high < self.IN_A_ROW:
            return None
        return Advice(f"The training loss is rising: {now:.3g} after {self._lowest:.3g}.", self._lower())

    def _leaping(self, norm: float | None) -> Advice | None:
        if norm is None or not math.isfinite(norm):
            return None
        usual = median(self._norms) if len(self._norms) >= self.KNOWN else math.inf
        self._norms.append(norm)
        if norm <= self.LEAP * usual:
            return None
        self._leaps.append(self._seen)
        if len(self._leaps) < self.LEAPS or self._seen - self._leaps[0] >= self.AMONG:
            return None
        return Advice(
            f"The norm of the gradient leaps: {norm:.3g}, where {usual:.3g} is usual, {self.LEAPS} times within "
            f"{self.AMONG} logged steps.",
            self._lower(),
        )

    def _lower(self) -> str:
        rate, safer = self.settings.learning_rate, self.settings.safer_rate
        return (
            f"The learning rate may be too high: lower train.learning_rate from {rate:g} to {safer:g}, "
            "or warm up longer."
        )


class Overfitting(Rule):
    """The validation loss rises over three measurements while the training loss falls.

    Prechelt's criterion UP (Early Stopping - But When?, 1998) with s = 3, and a rise of at least 2 % of the best value
    in all, so that noise on a plateau is none.
    """

    name = "overfitting"
    RISES, SHARE = 3, 0.02

    def __init__(self, settings: Settings | None = None):
        super().__init__(settings)
        self._smoothed, self._training = Smoothed(0.8), math.nan
        self._measured: list[tuple[int, float, float]] = []  # step, validation loss, training loss

    def look(self, point: Point) -> Advice | None:
        if point.loss is not None:
            self._training = self._smoothed.add(point.loss)
        if point.eval_loss is None:
            return None
        self._measured.append((point.step, point.eval_loss, self._training))
        last = self._measured[-self.RISES - 1 :]
        if len(last) <= self.RISES or not all(a[1] < b[1] for a, b in pairwise(last)):
            return None
        best = min(self._measured, key=lambda one: one[1])
        if last[-1][1] < last[0][1] + self.SHARE * best[1] or not last[-1][2] < last[0][2]:
            return None
        kept = "the weights of that step are kept" if self.settings.keep_best else "set train.keep_best to keep it"
        return Advice(
            f"Overfitting: the validation loss rises while the training loss falls. It was best at step {best[0]:,} "
            f"({best[1]:.4f}) and is {last[-1][1]:.4f} now.",
            f"Stop here or train for fewer epochs; {kept}.",
        )


class EmptyBatches(Rule):
    """A step whose batches have no labelled token teaches nothing. Fed with the number of labelled tokens."""

    name = "empty_batch"

    def labelled(self, tokens: int) -> Advice | None:
        """``tokens``: those that carry the loss in a step's batches."""
        if self.said or tokens:
            return None
        self.said = True
        return Advice(
            "A batch has no token that carries the loss: this step has learnt nothing.",
            "Look at its rows in the preview: data.train_on and data.max_length say which tokens are trained on.",
        )

    def look(self, point: Point) -> Advice | None:
        return None


RULES: tuple[type[Rule], ...] = (FlatLoss, HighLearningRate, Overfitting)

EMPTY_SHARE = 0.1


def empty_rows(dropped: dict[str, list[int]], total: int) -> Advice | None:
    """Advice where more than a tenth of all rows are left out because no token of them carries loss.

    Args:
        dropped: for each reason of ``studio.data.encode_rows`` the numbers of its rows.
        total: rows, the dropped ones among them.
    """
    empty = {reason: len(rows) for reason, rows in dropped.items() if reason.startswith("no token")}
    count = sum(empty.values())
    if count <= EMPTY_SHARE * total:
        return None
    beyond = sum(n for reason, n in empty.items() if "max_length" in reason)
    fix = (
        "Raise data.max_length: their answers begin behind it."
        if 2 * beyond > count
        else "Look in the preview which tokens carry the loss: data.train_on, data.columns and the roles decide it."
    )
    return Advice(f"{count / total:.0%} of the rows have no token that carries the loss.", fix)
