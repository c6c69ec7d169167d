"""The rules: each speaks about the curve that it is made for, once, and none about a curve as it should be."""

import math
import random

import pytest

from studio.training.curve_rules import (
    RULES,
    Divergence,
    EmptyBatches,
    FlatLoss,
    HighLearningRate,
    Overfitting,
    Point,
    Settings,
    empty_rows,
    falls,
)


def told(rule, points):
    """The steps at which a rule spoke, with what it said."""
    return [(point.step, advice) for point in points if (advice := rule.see(point))]


def curve(losses, norm=lambda step: 1.0):
    return [Point(step, loss, norm(step)) for step, loss in enumerate(losses, 1)]


def falling(seed, steps=200, start=2.5, end=0.6, noise=0.15, pace=0.03):
    """A loss that falls as a training loss does, with noise."""
    random.seed(seed)
    return [end + (start - end) * math.exp(-pace * n) + random.gauss(0, noise) for n in range(steps)]


def measured(values, training):
    """A training loss with a validation loss every ten steps."""
    points = []
    for step, loss in enumerate(training, 1):
        points.append(Point(step, loss, 1.0))
        if step % 10 == 0 and values:
            points.append(Point(step, eval_loss=values.pop(0)))
    return points


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rule", RULES)
def test_a_curve_as_it_should_be_raises_nothing(rule, seed):
    random.seed(seed)
    norms = [random.lognormvariate(0, 0.4) for _ in range(201)]
    validation = [0.7 + 1.8 * math.exp(-0.3 * n) + random.gauss(0, 0.004) for n in range(20)]
    points = measured(validation, falling(seed))
    points = [p._replace(grad_norm=norms[p.step]) if p.loss is not None else p for p in points]
    assert told(rule(Settings(steps=200, warmup=5)), points) == []


@pytest.mark.parametrize("seed", range(20))
def test_a_curve_as_it_should_be_has_not_diverged(seed):
    divergence = Divergence()
    assert not any(divergence.see(loss) for loss in falling(seed, noise=0.3))


@pytest.mark.parametrize("seed", range(10))
def test_a_loss_that_is_nothing_but_noise_is_flat(seed):
    random.seed(seed)
    flat = [2.0 + random.gauss(0, 0.1) for _ in range(100)]
    spoke = told(FlatLoss(Settings(steps=100)), curve(flat))
    assert [step for step, _ in spoke] in ([30], [])  # one in twenty of pure noise seems to fall
    assert falls(flat[:30]) < 3


def test_a_flat_loss_is_told_once_with_the_rate_to_raise():
    (step, advice), *others = told(FlatLoss(Settings(learning_rate=1e-6, steps=100)), curve([2.0, 2.1] * 60))
    assert (step, others) == (30, [])
    assert "from 1e-06 to 1e-05" in advice.fix


def test_a_loss_that_fell_early_and_stays_is_not_flat():
    assert told(FlatLoss(Settings(steps=100)), curve([3, 2.5, 2, 1.5, 1.2, *[1.0, 1.05] * 40])) == []


def test_a_warm_up_is_waited_for():
    spoke = told(FlatLoss(Settings(steps=300, warmup=50)), curve([2.0, 2.1] * 100))
    assert [step for step, _ in spoke] == [70]


def test_a_validation_loss_that_falls_answers_a_noisy_training_loss():
    points = measured([2.0, 1.9, 1.8], [2.0, 2.1] * 20)
    assert told(FlatLoss(Settings(steps=40)), points) == []


def test_a_loss_that_rises_early_says_that_the_learning_rate_may_be_too_high():
    losses = [2.0, 1.9, 1.8, 2.5, 3.2, 4.0, 4.5, 5.0, 5.0, 5.0]
    ((step, advice),) = told(HighLearningRate(Settings(learning_rate=0.01, safer_rate=0.002)), curve(losses))
    assert 5 <= step <= 8
    assert "from 0.01 to 0.002" in advice.fix


def test_a_loss_that_rises_late_is_none_of_a_high_learning_rates_business():
    assert told(HighLearningRate(Settings()), curve([2.0] * 60 + [4.0] * 40)) == []


def test_a_gradient_that_leaps_three_times_is_told():
    points = curve(falling(0), norm=lambda step: 30.0 if step in (60, 70, 80, 90) else 1.0)
    ((step, advice),) = told(HighLearningRate(Settings()), points)
    assert step == 80
    assert "leaps: 30, where 1 is usual" in advice.what


def test_a_single_leap_of_the_gradient_is_left_alone():
    points = curve(falling(0), norm=lambda step: 100.0 if step == 60 else 1.0)
    assert told(HighLearningRate(Settings()), points) == []


def test_a_validation_loss_that_rises_three_times_while_the_training_loss_falls_is_overfitting():
    points = measured([1.0, 0.9, 0.95, 1.0, 1.1, 1.2], falling(0, steps=60))
    ((step, advice),) = told(Overfitting(Settings()), points)
    assert step == 50
    assert "best at step 20 (0.9000)" in advice.what
    assert "keep_best" in advice.fix


def test_a_validation_loss_that_rises_with_the_training_loss_is_not_overfitting():
    rising = [1.0 + 0.02 * n for n in range(60)]
    assert told(Overfitting(Settings()), measured([1.0, 1.1, 1.2, 1.3, 1.4], rising)) == []


def test_noise_on_a_plateau_is_not_overfitting():
    points = measured([0.9, 0.9001, 0.9002, 0.9003, 0.9004], falling(0, steps=60))
    assert told(Overfitting(Settings()), points) == []


def test_a_batch_without_a_labelled_token_is_told_once():
    rule = EmptyBatches()
    assert [bool(rule.labelled(tokens)) for tokens in (12, 0, 3, 0)] == [False, True, False, False]


def test_a_loss_far_above_its_start_for_five_steps_has_diverged():
    divergence = Divergence()
    seen = [divergence.see(loss) for loss in [2.0, 1.9, 1.8, 6, 7, 8, 9, 10]]
    assert seen == [False] * 7 + [True]


def test_a_spike_that_comes_back_has_not_diverged():
    divergence = Divergence()
    assert not any(divergence.see(loss) for loss in [2.0] * 10 + [9, 9, 9, 9] + [2.0] * 5 + [9] * 4)


def test_a_run_that_leaves_at_once_is_held_against_its_first_step():
    divergence = Divergence()
    assert [divergence.see(loss) for loss in [6.2, 30, 40, 50, 60, 70]][-1]


def test_a_start_near_zero_needs_a_whole_nat_to_diverge():
    divergence = Divergence()
    assert not any(divergence.see(loss) for loss in [0.01] * 10 + [0.5] * 20)


def test_many_rows_without_labels_say_what_to_change():
    dropped = {"no token that carries loss is left within max_length 64": [1, 2, 3], "no assistant turn": [4]}
    assert "30% of the rows" in empty_rows(dropped, 10).what
    assert "data.max_length" in empty_rows(dropped, 10).fix
    assert "data.train_on" in empty_rows({"no token carries loss": [1, 2]}, 10).fix
    assert empty_rows(dropped, 100) is None
