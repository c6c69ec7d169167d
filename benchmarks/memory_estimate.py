"""The estimate of memory against real optimizer steps of the built-in model on a CPU.

STUDIO_HOME=WORKSPACE HF_HUB_OFFLINE=1 python benchmarks/memory_estimate.py

Each recipe takes two steps in a process of its own, on rows of exactly the length with a label at every position.
Measured is the largest resident memory (VmHWM) above what was resident once everything was imported and a tiny model
had taken a step of the same kind. With --returned the processes give freed memory back at once (MALLOC_MMAP_THRESHOLD_)
and the estimate is without the holes of the heap: this holds the formulas alone against what is needed.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studio.recipe import Recipe

STEPS = 2  # the second finds the optimizer's state there
RECIPES: list[dict[str, Any]] = [  # method, batch, length, and what is not the default
    {"method": {"kind": "lora"}, "batch": 4, "length": 128},
    {"method": {"kind": "lora"}, "batch": 4, "length": 128, "dtype": "bfloat16"},
    {"method": {"kind": "lora", "use_dora": True, "r": 8}, "batch": 2, "length": 96, "optim": "lion_32bit"},
    {"method": {"kind": "lora"}, "batch": 4, "length": 64, "quantization": "nf4", "checkpointing": True},
    {"method": {"kind": "full"}, "batch": 2, "length": 96},
    {"method": {"kind": "full"}, "batch": 8, "length": 64, "checkpointing": True, "optim": "adafactor"},
    {"method": {"kind": "freeze", "num_trainable_layers": 8}, "batch": 4, "length": 128, "optim": "adamw_8bit"},
    {"method": {"kind": "loha"}, "batch": 2, "length": 96, "optim": "adamw_torch_fused"},
    {"method": {"kind": "hra", "r": 2}, "batch": 1, "length": 64},
    {"method": {"kind": "bottleneck"}, "batch": 4, "length": 96, "dtype": "bfloat16", "optim": "sgd"},
    # the share of the heap's holes was taken from those above, and not from these
    {"method": {"kind": "adalora"}, "batch": 2, "length": 128, "dtype": "bfloat16"},
    {"method": {"kind": "prefix_tuning"}, "batch": 4, "length": 96},
    {"method": {"kind": "vera"}, "batch": 4, "length": 128, "optim": "adamw_torch_fused"},
    {"method": {"kind": "oft"}, "batch": 4, "length": 64},
    {"method": {"kind": "lora", "r": 8}, "batch": 8, "length": 256, "checkpointing": True},
]
TINY = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 8, "num_attention_heads": 4}


def recipe_of(row: dict[str, Any]) -> Recipe:
    recipe = Recipe.parse(
        {
            "model": {"dtype": row.get("dtype", "float32"), "quantization": row.get("quantization", "none")},
            "data": {"max_length": row["length"], "holdout": 0},
            "method": row["method"],
            "train": {
                "per_device_train_batch_size": row["batch"],
                "gradient_checkpointing": row.get("checkpointing", False),
                "optim": row.get("optim", "adamw_torch"),
                "device": "cpu",
            },
        }
    )
    return recipe.check()


def predict(recipe: Recipe) -> dict[str, int]:
    """The estimate."""
    from studio.models.headers import read_config
    from studio.models.memory_estimate import estimate
    from studio.models.store import fetch

    return estimate(recipe, read_config(fetch(recipe.model))).memory_bytes


def measure(recipe: Recipe) -> tuple[int, int]:
    """Bytes that training takes at its worst moment, and that loading takes before it, the mapped file included."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from studio.models.load import load_model
    from studio.models.store import fetch
    from studio.training.memory_monitor import give_back_at_once

    dtype = recipe.model.dtype
    torch.set_num_threads(2)
    give_back_at_once(recipe.model.quantization != "none")
    with tempfile.TemporaryDirectory() as folder:  # what is imported and set up once does not count
        LlamaForCausalLM(LlamaConfig(**TINY)).save_pretrained(folder)
        shutil.copy(fetch(recipe.model) / "tokenizer.json", folder)
        take_steps(load_model(recipe.model.model_copy(update={"id": folder}), dtype=dtype), recipe, rows=1, length=16)
    before = settled()
    model = load_model(recipe.model, dtype=dtype)
    loading = memory("VmHWM") - before
    settled()
    take_steps(model, recipe, recipe.train.per_device_train_batch_size, recipe.data.max_length)
    return memory("VmHWM") - before, loading


def take_steps(model: Any, recipe: Recipe, rows: int, length: int) -> None:
    """Optimizer steps as the studio's worker takes them, but for the data."""
    import torch
    from transformers import Trainer, TrainingArguments

    from studio.models.labelled_loss import LabelledLoss
    from studio.models.methods import apply_method
    from studio.training.acceleration.fused_layers import FusedLayers
    from studio.training.acceleration.fused_lora import fuse_lora

    model = apply_method(model, recipe)
    if recipe.method.kind == "lora":
        fuse_lora(model)
    adapted = hasattr(model, "get_base_model")
    if recipe.train.gradient_checkpointing:
        (model.get_base_model() if adapted else model).activation_checkpointing_enable()
        if adapted:
            model.enable_input_require_grads()
    trained = [p for p in model.parameters() if p.requires_grad]
    if recipe.model.quantization != "none":
        for parameter in trained:  # as TRL's trainer does
            parameter.data = parameter.data.to(torch.bfloat16)
    model.train()
    settings = TrainingArguments("unused", optim=recipe.train.optim, use_cpu=True, report_to="none")
    kind, options = Trainer.get_optimizer_cls_and_kwargs(settings, model)
    optimizer = kind(trained, **options)
    loss_of = LabelledLoss(model)
    generator = torch.Generator().manual_seed(0)
    with FusedLayers(model).in_place():
        for _ in range(STEPS):
            ids = torch.randint(1, model.config.vocab_size, (rows, length), generator=generator)
            total, count = loss_of(ids, torch.ones_like(ids), ids)
            (total / count).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            model.zero_grad()


def settled() -> int:
    """Resident bytes, with what is not used any more given back. The largest so far (VmHWM) begins anew here."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def described(row: dict[str, Any]) -> str:
    method = dict(row["method"])
    words = [method.pop("kind"), *(f"{k} {v}" for k, v in method.items())]
    words += [row.get("quantization", row.get("dtype", "float32")), row.get("optim", "adamw_torch")]
    return ", ".join([*words, *(["checkpointing"] if row.get("checkpointing") else [])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", type=int, help="measure this recipe alone and print bytes as JSON")
    parser.add_argument("--returned", action="store_true", help="give freed memory back at once")
    arguments = parser.parse_args()
    if arguments.row is not None:
        print(json.dumps(measure(recipe_of(RECIPES[arguments.row]))))
        return
    settings = {"OMP_WAIT_POLICY": "PASSIVE"}  # threads that wait leave the processor to others
    if arguments.returned:
        settings["MALLOC_MMAP_THRESHOLD_"] = "65536"
    heads = ["recipe", "batch x length", "predicted", "measured", "ratio", "loading", "CPU time"]
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for number, row in enumerate(RECIPES):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, __file__, "--row", str(number)]
        run = subprocess.run(
            command, env={**os.environ, **settings}, capture_output=True, text=True, check=False, timeout=900
        )
        if run.returncode:
            print(f"| {described(row)} | failed: {run.stderr.strip().splitlines()[-1][:200]} |", flush=True)
            continue
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found, loading = json.loads(run.stdout.splitlines()[-1])
        parts = predict(recipe_of(row))
        expected = parts["total"] - (parts["context"] if arguments.returned else 0)
        cells = [described(row), f"{row['batch']} x {row['length']}"]
        cells += [f"{expected / 1e6:.0f} MB", f"{found / 1e6:.0f} MB", f"{expected / found:.2f}"]
        cells += [f"{loading / 1e6:.0f} MB", f"{seconds:.0f} s"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
