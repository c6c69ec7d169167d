"""How many measurements without a better one a run has waited, over a resume and over a continuation."""

from types import SimpleNamespace

import pytest

from studio.training.best import BestCallback

ARGS = SimpleNamespace(output_dir="checkpoints")


def begun(before: dict, planned: int) -> BestCallback:
    """A callback of patience 2 in a run up to step ``planned`` from a checkpoint with these attributes."""
    callback = BestCallback(None, patience=2)
    kept = {"BestCallback": {"args": {}, "attributes": before}}
    callback.on_train_begin(ARGS, SimpleNamespace(stateful_callbacks=kept, max_steps=planned), None)
    return callback


@pytest.mark.parametrize(
    ("before", "planned", "waited"),
    [
        ({"_waited": 1, "_planned": 9}, 9, 1),  # resumed
        ({"_waited": 1, "_planned": 9}, 12, 0),  # continued after its last step
        ({"_waited": 2, "_planned": 9}, 12, 0),  # continued after it had stopped early
        ({"_waited": 2, "_planned": 9}, 9, 0),  # the same, up to the step that was planned at first
        ({"_waited": 1}, 9, 1),  # of a checkpoint that does not say how far it was planned
    ],
)
def test_a_continued_run_counts_anew_and_a_resumed_one_goes_on(before, planned, waited):
    assert begun(before, planned)._waited == waited


def test_a_checkpoint_says_up_to_which_step_the_run_was_planned():
    assert begun({"_waited": 1, "_planned": 9}, 9).state()["attributes"] == {"_waited": 1, "_planned": 9}
