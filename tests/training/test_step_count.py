"""How long a run is, before it starts."""

import sys

import pytest

from studio.recipe import TrainSpec
from studio.training.step_count import planned_steps

SETTINGS = [
    # rows, batch, accumulation, epochs, max_steps
    (20, 8, 1, 2, -1),
    (20, 8, 4, 2, -1),
    (1, 8, 4, 1, -1),
    (16, 8, 2, 3, -1),
    (17, 4, 3, 1.5, -1),
    (100, 3, 7, 0.3, -1),
    (20, 8, 1, 2, 3),
    (20, 8, 4, 1, 50),
]


@pytest.mark.parametrize(("rows", "batch", "accumulation", "epochs", "max_steps"), SETTINGS)
def test_planned_steps_are_the_trainers_own_number(tmp_path, rows, batch, accumulation, epochs, max_steps):
    import torch
    from transformers import Trainer, TrainingArguments

    settings = {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": epochs,
        "max_steps": max_steps,
    }
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **settings)
    trainer = Trainer(torch.nn.Linear(1, 1), arguments, train_dataset=[{"x": 0.0}] * rows)
    trainers_own = trainer.set_initial_training_values(arguments, trainer.get_train_dataloader())[-1]
    assert planned_steps(rows, TrainSpec(**settings)) == trainers_own
    assert planned_steps(rows, arguments) == trainers_own


def test_more_devices_take_fewer_steps():
    assert planned_steps(64, TrainSpec(per_device_train_batch_size=4, num_train_epochs=1), devices=4) == 4


def test_counting_steps_needs_no_torch():
    import subprocess

    code = "import sys, studio.training.step_count; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
