"""The model card of a tuned model."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from studio.models.builtin import public_id
from studio.recipe.methods import METHODS, WHOLE
from studio.runs import Run


def write_card(folder: Path, run: Run, *, merged: bool = False) -> None:
    """Write ``README.md`` beside the weights: base, data, method, settings, losses, versions."""
    recipe, view = run.recipe, run.view()
    resolved = recipe.resolved
    front = {
        "base_model": public_id(recipe.model.id),
        "library_name": "transformers" if merged or recipe.method.kind in WHOLE else "peft",
        "pipeline_tag": "text-classification" if recipe.model.task == "seq_cls" else "text-generation",
        "tags": ["sft", recipe.method.kind],
    }
    losses = []
    if view.loss is not None:
        losses.append(f"- training loss at the last step: {view.loss:.4f}")
    if view.eval_loss is not None:
        losses.append(f"- validation loss: {view.eval_loss:.4f} over the held-out rows")
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        f"# {run.id}",
        "",
        f"`{recipe.model.id}` fine-tuned with SFT Studio on `{recipe.data.source}`.",
        "",
        f"- method: {METHODS[recipe.method.kind].title}" + (", merged into the base" if merged else ""),
        f"- base revision: {resolved.model_revision or 'not known'}" if resolved else "",
        f"- data fingerprint (sha256): {resolved.data_fingerprint}" if resolved else "",
        f"- steps: {view.step} of {view.max_steps}, tokens seen: {view.tokens:,}",
        *losses,
        "",
        *_evaluation(run),
        "The licence of the base model and the terms of the data hold for this model too.",
        "",
        "## Recipe",
        "",
        "```yaml",
        recipe.to_yaml().strip(),
        "```",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _evaluation(run: Run) -> list[str]:
    """The figures of the run's evaluation, base beside tuned, if it has been evaluated."""
    try:
        scores = json.loads((run.folder / "evaluation.json").read_text(encoding="utf-8"))
        base, tuned = scores["base"], scores["tuned"]
    except (OSError, ValueError, KeyError):  # not evaluated yet
        return []
    lines = ["## Evaluation", "", f"{scores['rows']} held-out rows.", "", "| metric | base | tuned | 95 % |"]
    lines.append("| --- | --- | --- | --- |")
    for name, value in tuned.items():
        if isinstance(value, float):
            before = f"{base[name]:.4f}" if isinstance(base.get(name), float) else ""
            around = scores.get("intervals", {}).get("tuned", {}).get(name)
            ends = f"{around[0]:.4f} to {around[1]:.4f}" if around and None not in around else ""
            lines.append(f"| {name.replace('_', ' ')} | {before} | {value:.4f} | {ends} |")
    return [*lines, ""]
