"""Public benchmarks through EleutherAI's ``lm-eval``, where it is installed: base beside tuned."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.inference import Engine, Target
from studio.jobs.progress import Report, quiet
from studio.runs import Run

PACKAGE = "lm_eval"


def run_tasks(
    run: Run,
    tasks: Sequence[str],
    engine: Engine,
    *,
    limit: int | None = None,
    folder: Path | None = None,
    chat: bool = True,
    batch_size: int = 8,
    progress: Report = quiet,
) -> dict[str, Any]:
    """Score both models of a run on tasks of ``lm-eval`` (https://github.com/EleutherAI/lm-evaluation-harness).

    Args:
        limit: documents of each task; None takes all.
        folder: where task files (YAML) of one's own are.
        chat: whether prompts go through the chat template.

    Returns:
        ``{task: {metric: {"base": value, "tuned": value, "stderr": {"base": .., "tuned": ..}}}}``; a metric's name is
        lm-eval's, with its filter behind a comma where it has one.

    Raises:
        StudioError: lm-eval is not installed, a task is not known, its data cannot be had, or the run is of a
            classifier.
    """
    if run.recipe.model.task == "seq_cls":
        raise StudioError("lm-eval scores models that write text, and this run is a classifier.", "Use `evaluate`.")
    if not tasks:
        raise StudioError("No task is named.", "Name some of lm-eval's, such as arc_easy or hellaswag.")
    if importlib.util.find_spec(PACKAGE) is None:
        raise StudioError("Public benchmarks need the package lm-eval.", "pip install lm-eval, then run this again.")
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder) if folder else None)
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        raise StudioError(f"lm-eval has no task {', '.join(unknown)}.", "`lm_eval ls tasks` lists what there is.")
    found: dict[str, Any] = {}
    for side, target in (("base", Target.base_of(run)), ("tuned", Target.run(run.id))):
        handle = engine.open(target, progress)
        progress(f"Asking {handle.name} the tasks", 0, 0)
        with handle.weights.use_adapter(handle.adapter):
            try:
                results = simple_evaluate(
                    model=_wrapped(handle, batch_size),
                    tasks=list(tasks),
                    limit=limit,
                    task_manager=manager,
                    apply_chat_template=chat,
                    bootstrap_iters=1000,
                    log_samples=False,
                )["results"]
            except (OSError, ValueError, KeyError, ImportError) as error:
                raise StudioError(
                    f"lm-eval could not run the tasks: {type(error).__name__}: {str(error).strip()[:300]}",
                    "Their data comes from the Hub: check the network, or that the task's own packages are there.",
                ) from error
        for task, values in results.items():
            _take(found.setdefault(task, {}), side, values)
    return found


def _wrapped(handle: Any, batch_size: int) -> Any:
    """The opened model as lm-eval takes one."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=handle.weights.model,
        tokenizer=handle.tokenizer,
        batch_size=batch_size,
        max_length=handle.context_length,
    )


def _take(task: dict[str, Any], side: str, values: dict[str, Any]) -> None:
    """Sort one model's results of a task in: ``acc,none`` and its ``acc_stderr,none``."""
    for key, value in values.items():
        name, _, cut = key.partition(",")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or name.endswith("_stderr") or not cut:
            continue
        shown = name if cut == "none" else key
        entry = task.setdefault(shown, {"stderr": {}})
        entry[side] = float(value)
        stderr = values.get(f"{name}_stderr,{cut}")
        entry["stderr"][side] = float(stderr) if isinstance(stderr, (int, float)) else None
