"""The page's process must not pay for torch."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_describing_and_estimating_load_neither_torch_nor_transformers(tiny_model):
    code = f"""
import sys, json
import studio.models, studio.models.store, studio.models.fetch, studio.jobs.progress
from studio.models import headers, machine, memory_estimate, model_info
from studio.models import load, chat, methods
from studio.recipe import ModelSpec, Recipe
spec = ModelSpec(id={str(tiny_model)!r})
model_info.describe(spec)
studio.models.store.fetch(spec)
memory_estimate.estimate(Recipe(model=spec), headers.read_config(studio.models.store.local_folder(spec)))
machine.machine_memory()
print([m for m in ("torch", "transformers", "datasets", "huggingface_hub") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
