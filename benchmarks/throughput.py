"""How fast the studio trains, beside others: the same rows, the same steps, in turns, in one command.

    python benchmarks/throughput.py                                         # the built-in model and data, 64 rows
    python benchmarks/throughput.py --data alpaca.json --repeat 3 \\
        --environment llamafactory=/path/to/its/bin/python                  # another tool in an environment of its own
    python benchmarks/throughput.py --random 0.5B --length 2048 --filled --contenders studio trl trl-tuned trl-liger

Contenders: ``studio`` (its worker, by `python app.py train`), ``trl`` (TRL's defaults), ``trl-tuned`` (TRL by somebody
who knows the machine: half precision where it is fast, nothing recomputed, rows grouped by length), ``trl-liger`` (the
same with Liger's kernels), ``loop`` (bare PyTorch over PEFT's model: what is left without a trainer), ``llamafactory``
and ``unsloth`` (where ``--environment`` names a Python that has them). Each trains LoRA on all linear layers (or all
weights, ``--full``) for one epoch in a process of its own, one after the other and again (``--repeat``).

Prints a table of medians: real tokens a second (no padding counted) from the first step's begin to the last step's end,
that number over the studio's, tokens with loss, peak memory (of the process, or of the GPU's allocator), time from the
launch to the first step, and the loss that the trained model has on all tokens with loss, from its saved weights and by
the same code for each contender, so that nobody wins by training on less: the mean of the losses that a trainer logs
depends on which rows share a batch. A turn is a seed. On a GPU also the share of its bfloat16 peak. ``--json FILE``
keeps everything, with each logged loss.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

CONTENDERS = ("studio", "trl", "trl-tuned", "trl-liger", "loop", "llamafactory", "unsloth")
SHAPES = {  # Llama-shaped, with the sizes of Qwen2.5's models
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "heads": (14, 2)},
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "heads": (12, 2)},
}
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Dense bfloat16, by the makers' data sheets (SXM where there are several)."""
RANK, LEARNING_RATE = 16, 2e-4


def rows_of(data: str | None, count: int, tokenizer: Any, length: int, filled: bool) -> tuple[list[dict], list[dict]]:
    """The rows as messages, and as the studio encodes them.

    ``filled`` makes each as long as ``length`` by repeating its answer.
    """
    from studio.data import encode_conversation, load_conversations
    from studio.recipe import DataSpec

    spec = DataSpec(**({"source": str(Path(data).resolve())} if data else {}))
    rows, encoded = [], []
    for row in load_conversations(spec):
        messages = [{"role": one["role"], "content": one["content"]} for one in row["messages"]]
        if filled:
            while len(encode_conversation(tokenizer, messages).input_ids) < length:
                messages[-1]["content"] += " " + messages[-1]["content"]
        one = encode_conversation(tokenizer, messages, max_length=length)
        if one.dropped:
            continue
        rows.append({"prompt": messages[:-1], "completion": messages[-1:]})
        encoded.append({"input_ids": one.input_ids, "labels": one.labels})
        if len(rows) == count:
            break
    return rows, encoded


def model_folder(name: str | None, shape: str | None, folder: Path) -> Path:
    """The base model: built-in, a folder, or random weights in the shape of a larger one."""
    from studio.models.store import fetch
    from studio.recipe import ModelSpec

    base = fetch(ModelSpec(**({"id": str(Path(name).resolve())} if name else {})))
    if not shape:
        return base
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    sizes = dict(SHAPES[shape])
    heads, shared = sizes.pop("heads")
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_attention_heads=heads,
        num_key_value_heads=shared,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        **sizes,
        **ids,
    )
    torch.manual_seed(0)
    made = folder / f"random-{shape}"
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(made)
    tokenizer.save_pretrained(made)
    return made


def studio(job: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Train by the terminal command, and read the run's events."""
    folder = Path(job["folder"])
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for row in job["rows"]:
            file.write(json.dumps({"messages": [*row["prompt"], *row["completion"]]}, ensure_ascii=False) + "\n")
    recipe = {
        "name": "throughput",
        "model": {"id": job["model"]},
        "data": {"source": str(folder / "rows.jsonl"), "max_length": job["length"], "holdout": 0},
        "method": {"kind": "full"} if job["full"] else {"kind": "lora", "r": RANK, "lora_alpha": job["lora_alpha"]},
        "train": {
            "num_train_epochs": 1,
            "per_device_train_batch_size": job["batch"],
            "learning_rate": job["learning_rate"],
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "save_steps": 0,
            "sample_count": 0,
            "optim": "adamw_torch_fused",
            "seed": job["seed"],
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    command = [sys.executable, str(ROOT / "app.py"), "train", str(path), *overrides]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    lines = (Path(os.environ["STUDIO_HOME"]) / "runs" / done.stdout.split()[-1] / "events.jsonl").read_text("utf-8")
    events = [json.loads(line) for line in lines.splitlines()]
    shutil.copytree(Path(os.environ["STUDIO_HOME"]) / "runs" / done.stdout.split()[-1] / "model", folder / "trained")
    started = next(event for event in events if event["kind"] == "started")
    steps = [event for event in events if event["kind"] == "step"]
    return {
        "seconds": steps[-1]["time"] - started["time"],
        "tokens": started["tokens"],
        "trained_tokens": started["trained_tokens"],
        "steps": len(steps),
        "peak_memory_bytes": events[-1]["peak_memory_bytes"],
        "first_step_seconds": steps[0]["time"] - job["started"],
        "losses": [step["loss"] for step in steps],
        "dtype": started["dtype"],
    }


def measure(name: str, job: dict[str, Any], python: str, overrides: list[str]) -> dict[str, Any]:
    """One contender, once, in processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        job = {**job, "folder": folder, "out": f"{folder}/result.json", "started": time.time()}
        if name == "studio":
            found = studio(job, overrides)
            return {**found, "loss_after": loss_of(job, Path(folder) / "trained")}
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        command = [python, str(ROOT / "benchmarks" / "contender.py"), name, str(path)]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stdout[-3000:]}")
        found = json.loads(Path(job["out"]).read_text(encoding="utf-8"))
        return {**found, "loss_after": loss_of(job, Path(folder) / "trained")}


def loss_of(job: dict[str, Any], trained: Path | None) -> float:
    """The mean loss of a token over all rows, of the base or with what a contender left, in the base's format."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from studio.models.labelled_loss import LabelledLoss

    adapter = trained is not None and (trained / "adapter_config.json").exists()
    folder = job["model"] if adapter or trained is None else trained
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, job["dtype"])).to(job["device"]).eval()
    if adapter:
        model = PeftModel.from_pretrained(model, trained).eval()
    loss_of_batch, total, count = LabelledLoss(model, one_row=False), 0.0, 0
    rows = sorted(job["encoded"], key=lambda row: len(row["input_ids"]))
    for start in range(0, len(rows), job["batch"]):
        batch = rows[start : start + job["batch"]]
        width = max(len(row["input_ids"]) for row in batch)
        filled = {
            "input_ids": [row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in batch],
            "attention_mask": [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in batch],
            "labels": [row["labels"] + [-100] * (width - len(row["labels"])) for row in batch],
        }
        with torch.no_grad():
            loss, tokens = loss_of_batch(**{key: torch.tensor(each).to(job["device"]) for key, each in filled.items()})
        total, count = total + loss.item(), count + tokens
    return total / count


def flops_per_token(folder: Path, full: bool, length: int) -> float:
    """Of a forward and a backward pass: 2 for each weight and pass, the backward pass of trained weights twice, and
    attention's products of causal rows (https://arxiv.org/abs/2204.02311, appendix B)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    import torch

    with torch.device("meta"):
        weights = AutoModelForCausalLM.from_config(config).num_parameters()
    attention = 12 * config.num_hidden_layers * config.hidden_size * length / 2
    return (6 if full else 4) * weights + attention


def table(found: dict[str, list[dict]], peak: float | None, flops: float) -> str:
    """The medians as a table, the studio's tokens a second over each one's in the third column."""
    middle = {
        name: {
            key: statistics.median(one[key] for one in runs)
            for key in ("tokens", "trained_tokens", "steps", "peak_memory_bytes", "first_step_seconds", "seconds")
        }
        | {
            "speed": statistics.median(one["tokens"] / one["seconds"] for one in runs),
            "losses": [one["loss_after"] for one in runs],
            "range": [round(f(one["tokens"] / one["seconds"] for one in runs)) for f in (min, max)],
        }
        for name, runs in found.items()
    }
    heads = ["contender", "real tokens/s", "studio over it", "tokens", "with loss", "steps", "peak memory"]
    heads += ["first step after", "loss after"] + (["of the peak"] if peak else [])
    lines = [heads, ["---"] * len(heads)]
    for name, one in middle.items():
        ours = middle.get("studio", one)["speed"]
        lines.append(
            [
                name,
                f"{one['speed']:,.0f} ({one['range'][0]:,} to {one['range'][1]:,})",
                f"{ours / one['speed']:.2f}",
                f"{one['tokens']:,.0f}",
                f"{one['trained_tokens']:,.0f}",
                f"{one['steps']:.0f}",
                f"{one['peak_memory_bytes'] / 1e9:.2f} GB",
                f"{one['first_step_seconds']:.1f} s",
                ", ".join(f"{loss:.4f}" for loss in one["losses"]),
                *([f"{one['speed'] * flops / peak:.1%}"] if peak else []),
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=None)
    parser.add_argument("--environment", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--data", help="a file of conversations; the built-in ones if not given")
    parser.add_argument("--model", help="a folder; the built-in model if not given")
    parser.add_argument("--random", choices=SHAPES, help="random weights in this size, with the model's tokenizer")
    parser.add_argument("--template", default="smollm2", help="LLaMA-Factory's name of the model's chat template")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--filled", action="store_true", help="make every row as long as --length")
    parser.add_argument("--full", action="store_true", help="tune all weights instead of LoRA")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="for the studio's recipe")
    options = parser.parse_args()
    pythons = dict(one.split("=", 1) for one in options.environment)
    contenders = options.contenders or ["studio", "trl", "trl-tuned", "loop", *pythons]
    for name in {"llamafactory", "unsloth"} & {*contenders} - {*pythons}:
        parser.error(f"--environment {name}=/path/to/python is needed")

    import torch
    from transformers import AutoTokenizer

    from studio.models.load import resolve_dtype

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as scratch:
        folder = model_folder(options.model, options.random, Path(scratch))
        os.environ.setdefault("STUDIO_HOME", scratch)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        rows, encoded = rows_of(options.data, options.rows, tokenizer, options.length, options.filled)
        job = {
            "model": str(folder),
            "rows": rows,
            "encoded": encoded,
            "batch": options.batch,
            "length": options.length,
            "full": options.full,
            "r": RANK,
            "lora_alpha": 2 * RANK,
            "learning_rate": LEARNING_RATE / 10 if options.full else LEARNING_RATE,
            "dtype": "float32" if options.full and device == "cpu" else resolve_dtype("auto", device),
            "device": device,
            "template": options.template,
        }
        name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        sizes = sum(len(one["input_ids"]) for one in encoded)
        print(f"{len(rows)} rows, {sizes:,} tokens, batch {options.batch}, {name}, torch {torch.__version__}")
        found: dict[str, list[dict]] = {contender: [] for contender in contenders}
        for turn in range(options.repeat):
            for contender in contenders:
                one = measure(contender, {**job, "seed": turn}, pythons.get(contender, sys.executable), options.set)
                found[contender].append(one)
                print(f"{turn} {contender}: {one['tokens'] / one['seconds']:.1f} tokens/s", file=sys.stderr, flush=True)
                if options.json:
                    Path(options.json).write_text(json.dumps(found), encoding="utf-8")
        peak = next((value for card, value in PEAK_FLOPS.items() if card in name), None) if device == "cuda" else None
        print(f"Loss before: {loss_of(job, None):.4f}")
        print(table(found, peak, flops_per_token(folder, options.full, options.length) if peak else 0))


if __name__ == "__main__":
    main()
