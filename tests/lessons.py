"""Small runs on a tiny model, for the tests of the worker."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from studio.recipe import Recipe
from studio.runs import Run
from studio.workspace import Workspace

COLOURS = ["red", "blue", "green", "grey", "pink", "brown", "black", "white"]


def write_rows(path: Path, count: int = 12) -> Path:
    """Questions and answers of different lengths."""
    rows = [
        {"prompt": f"What colour is number {n}?" + " Please." * (n % 4), "completion": COLOURS[n % 8] * (1 + n % 3)}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lesson(model: Path, rows: Path, *, method: dict[str, Any] | None = None, **train: Any) -> Recipe:
    """A recipe of six steps over these rows with this model; ``train`` changes its settings."""
    settings = {"max_steps": 6, "per_device_train_batch_size": 2, "learning_rate": 0.01, "warmup_steps": 1}
    settings |= {
        "eval_steps": 3,
        "save_steps": 2,
        "save_total_limit": 10,
        "device": "cpu",
        "seed": 7,
        "sample_count": 0,
    }
    return Recipe.parse(
        {
            "name": "lesson",
            "model": {"id": str(model), "dtype": "float32"},
            "data": {"source": str(rows), "holdout": 0.25, "max_length": 64},
            "method": method or {"kind": "lora", "r": 4, "lora_alpha": 8},
            "train": settings | train,
        }
    )


def done(recipe: Recipe, expected: str = "finished") -> Run:
    """A run of the recipe, done in this process, that ended as expected."""
    from studio.training import train

    run = Run.create(recipe)
    kind = train(run.folder)
    assert kind == run.status == expected, run.events()[-1]
    return run


class KeptRuns:
    """Runs that several tests ask for: each recipe is trained once, and every other test gets a copy of its folder."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._kept: dict[tuple[str, bytes], tuple[Path, Path]] = {}

    def run_of(self, recipe: Recipe, rows: Path) -> Run:
        """A finished run of the recipe in this test's workspace. ``rows`` is the file that its data is in."""
        key = (recipe.to_yaml().replace(str(rows), "rows"), rows.read_bytes())
        if key in self._kept:
            folder, earlier = self._kept[key]
            target = Workspace.current().runs / folder.name
            if not target.exists():
                shutil.copytree(folder, target)
                path = target / "recipe.yaml"
                path.write_text(path.read_text().replace(str(earlier), str(rows)))
                return Run(target)
        run = done(recipe)
        if key not in self._kept:
            self._kept[key] = (shutil.copytree(run.folder, self._folder / run.folder.name), rows)
        return run


def curve(run: Run, kind: str = "step") -> list[tuple[int, float]]:
    """Step and loss of every event of this kind."""
    return [(e["step"], e["loss"]) for e in run.events() if e["kind"] == kind]


def kinds(run: Run) -> list[str]:
    return [e["kind"] for e in run.events() if e["kind"] not in ("progress", "memory")]


def weights(folder: Path) -> dict[str, Any]:
    """All tensors of the safetensors files in a folder."""
    from safetensors.torch import load_file

    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def stop_after(monkeypatch, step: int, ask: str = "stop") -> None:
    """Ask any run to stop (or to ``pause``) during this step."""
    from studio.training.event_callback import EventCallback

    real = EventCallback.on_step_end

    def on_step_end(self, args, state, control, **more):
        if state.global_step == step:
            getattr(self._run, ask)()
        return real(self, args, state, control, **more)

    monkeypatch.setattr(EventCallback, "on_step_end", on_step_end)


def same(one: dict, other: dict) -> bool:
    import torch

    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
