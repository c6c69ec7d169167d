"""The adapter as it was trained, copied, and loaded back onto its base."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

from studio.errors import StudioError
from studio.export import verify
from studio.export.kinds import Exported, Options
from studio.jobs.progress import Report
from studio.models.builtin import public_id
from studio.runs import Run
from studio.training.saving import tuned_model


def write(run: Run, folder: Path, options: Options, progress: Report) -> Exported:
    """Copy the run's adapter with tokenizer and card into ``folder``.

    Raises:
        StudioError: the copy cannot be loaded, is another one, or does not say what the run's own adapter says.
    """
    progress("Copying the adapter", 0, 0)
    shutil.copytree(run.model_dir, folder)
    model, tokenizer, classes = tuned_model(run, progress=progress)
    rows = verify.some_rows(run, tokenizer, classes)
    expected = verify.logits(model, rows)
    del model
    progress("Reading it back", 0, 0)
    found = verify.logits(tuned_model(run, folder)[0], rows)
    check = verify.demand(verify.compare(expected, found), "float32", "The copied adapter")
    _same_files(run.model_dir, folder)
    told = ["The copy is the run's adapter, byte for byte.", check.told("the copy")]
    told.append(f"It needs its base, {public_id(run.recipe.model.id)}, and PEFT.")
    if run.recipe.method.kind == "bottleneck":
        told.append("PEFT does not have this method: load it where this studio is, after importing its bottleneck.")
    return Exported("adapter", str(folder), told)


def _same_files(folder: Path, copy: Path) -> None:
    """Hold every file of a folder against its copy."""
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    _, other, unread = filecmp.cmpfiles(folder, copy, names, shallow=False)
    if wrong := sorted(other + unread):
        raise StudioError(
            f"The copied adapter is not the run's own: {', '.join(wrong)} differs.", "Check the disk, and try again."
        )
