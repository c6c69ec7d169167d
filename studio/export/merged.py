"""The whole model in safetensors, read back and compared with the unmerged one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio.export import verify
from studio.export.kinds import Exported, Options
from studio.jobs.progress import Report
from studio.runs import Run
from studio.training.saving import check_merges, folded, trained_dtype, tuned_model, write_whole


def write(run: Run, folder: Path, options: Options, progress: Report) -> Exported:
    """Write the whole model into ``folder``.

    Raises:
        StudioError: it cannot be merged, or does not say the same once it is read back.
    """
    _, _, told = write_checked(run, folder, options.dtype, progress)
    return Exported("merged", str(folder), told)


def write_checked(run: Run, folder: Path, dtype: str, progress: Report) -> tuple[list[list[int]], list[Any], list[str]]:
    """Write the whole model and read it back.

    Returns:
        The rows it was tried on, the run's logits for them, and what is to be told.
    """
    check_merges(run)
    model, tokenizer, classes = tuned_model(run, progress=progress)
    progress("Asking the model as it was trained", 0, 0)
    rows = verify.some_rows(run, tokenizer, classes)
    expected = verify.logits(model, rows)
    progress("Merging", 0, 0)
    model = folded(model)
    # first the merge by itself, then the files by themselves: rounding could hide a small mistake in either
    verify.demand(verify.compare(expected, verify.logits(model, rows)), "float32", "The merged model")
    progress("Saving the merged model", 0, 0)
    write_whole(folder, run, model, tokenizer, classes, dtype=dtype)
    rounded = verify.logits(model.float(), rows)
    del model
    progress("Reading it back", 0, 0)
    found = verify.logits(verify.read_back(folder, classes, run.recipe.model.trust_remote_code), rows)
    verify.demand(verify.compare(rounded, found), "float32", "What was written")
    format = trained_dtype(run) if dtype == "auto" else dtype
    check = verify.demand(verify.compare(expected, found), format, f"The merged model in {format}")
    told = [check.told(f"the model in {format}")]
    if run.recipe.model.quantization != "none":
        told.append(
            f"The run was trained on a base in {run.recipe.model.quantization}; merged and compared is the adapter on "
            "the base as it is without that."
        )
    return rows, expected, told
