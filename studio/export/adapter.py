"""The adapter as it was trained, copied, and loaded back onto its base."""

from __future__ import annotations

import shutil
from pathlib import Path

from studio.errors import StudioError
from studio.export import verify
from studio.export.kinds import Exported, Options
from studio.models.builtin import public_id
from studio.models.progress import Report
from studio.runs import Run
from studio.training.saving import tuned_model


def write(run: Run, folder: Path, options: Options, progress: Report) -> Exported:
    """Copy the run's adapter with tokenizer and card into ``folder``.

    Raises:
        StudioError: the copy cannot be loaded, or does not say what the run's own adapter says.
    """
    progress("Copying the adapter", 0, 0)
    shutil.copytree(run.model_dir, folder)
    model, tokenizer, classes = tuned_model(run, progress=progress)
    rows = verify.some_rows(run, tokenizer, classes)
    expected = verify.logits(model, rows)
    del model
    progress("Reading it back", 0, 0)
    found = verify.logits(tuned_model(run, folder)[0], rows)
    check = verify.compare(expected, found)
    if check.largest:
        raise StudioError("The copied adapter does not say what the run's own says.", "Check the disk, and try again.")
    told = [f"Checked on {check.rows} of the run's rows: the copy gives the very same logits."]
    told.append(f"It needs its base, {public_id(run.recipe.model.id)}, and PEFT.")
    if run.recipe.method.kind == "bottleneck":
        told.append("PEFT does not have this method: load it where this studio is, after importing its bottleneck.")
    return Exported("adapter", str(folder), told)
