"""One contender of ``throughput.py``: trains as its own users would, and writes down what it took.

    python benchmarks/contender.py trl job.json

Runs in any environment that has the contender; the studio is not imported here. The job says ``model`` (a folder),
``rows`` (``prompt`` and ``completion``, lists of messages), ``encoded`` (``input_ids`` and ``labels``), ``batch``,
``length``, ``r``, ``lora_alpha``, ``learning_rate``, ``seed``, ``dtype``, ``full``, ``device``, ``started`` (unix
seconds of the launch), ``folder`` (to write into; what was trained is left in its ``trained``) and ``out`` (the file
with the result).
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any


class Clock:
    """Times of the steps, losses, and the tokens that a pass over the data has."""

    def __init__(self, job: dict[str, Any]):
        self.job, self.begun, self.steps, self.losses = job, 0.0, [], []
        self.tokens = self.trained = self.seen = 0

    def begin(self, rows: Any = None) -> None:
        for row in rows or []:
            ids, labels = row["input_ids"], row.get("labels")
            self.tokens += len(ids)
            if labels is None:  # TRL says it by masks
                mask = row.get("completion_mask") or row.get("assistant_masks") or [1] * len(ids)
                labels = [1 if one else -100 for one in mask]
            self.trained += sum(1 for label in labels[1:] if label != -100)
        self.begun = time.time()

    def step(self) -> None:
        self.steps.append(time.time())

    def result(self) -> dict[str, Any]:
        import torch

        cuda = self.job["device"] == "cuda"
        peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {
            "seconds": self.steps[-1] - self.begun,
            "tokens": self.tokens,
            "trained_tokens": self.trained,
            "steps": len(self.steps),
            "step_times": self.steps,
            "peak_memory_bytes": peak,
            "first_step_seconds": self.steps[0] - self.job["started"],
            "losses": self.losses,
        }


def watcher(clock: Clock) -> Any:
    """``clock`` as a callback of transformers' trainers."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        def on_train_begin(self, args, state, control, train_dataloader=None, **_):
            clock.begin(train_dataloader.dataset)

        def on_step_end(self, args, state, control, **_):
            clock.step()

        def on_log(self, args, state, control, logs=None, **_):
            if logs and "loss" in logs:
                clock.losses.append(float(logs["loss"]))

    return Watcher()


def common(job: dict[str, Any]) -> dict[str, Any]:
    """What TRL's trainer is told for the job, whoever calls it."""
    return {
        "output_dir": f"{job['folder']}/out",
        "num_train_epochs": 1,
        "per_device_train_batch_size": job["batch"],
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "constant",
        "max_length": job["length"],
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": job["seed"],
        "disable_tqdm": True,
    }


def trl(job: dict[str, Any], clock: Clock, *, tuned: bool = False, liger: bool = False) -> None:
    """TRL's ``SFTTrainer``: with its defaults, or set by somebody who knows the machine."""
    import datasets
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    options: dict[str, Any] = {}
    model: Any = job["model"]
    if tuned:
        half = job["dtype"] != "float32"
        model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"]))
        options = {
            "gradient_checkpointing": False,
            "train_sampling_strategy": "group_by_length",
            "bf16": half and job["full"],
        }
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            **common(job),
            use_cpu=job["device"] == "cpu",
            use_liger_kernel=liger,
            **options,
        ),
        train_dataset=datasets.Dataset.from_list(job["rows"]),
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        peft_config=None
        if job["full"]
        else LoraConfig(r=job["r"], lora_alpha=job["lora_alpha"], target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[watcher(clock)],
    )
    trainer.train()
    trainer.model.save_pretrained(f"{job['folder']}/trained")


def loop(job: dict[str, Any], clock: Clock) -> None:
    """Nothing but PyTorch and PEFT: rows of similar length in a batch, the model's own loss, AdamW."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(job["seed"])
    device = torch.device(job["device"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"])).to(device)
    if not job["full"]:
        lora = LoraConfig(r=job["r"], lora_alpha=job["lora_alpha"], target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, lora)
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=job["learning_rate"], weight_decay=0.0, fused=True)
    rows = sorted(job["encoded"], key=lambda row: len(row["input_ids"]))
    batches = [rows[start : start + job["batch"]] for start in range(0, len(rows), job["batch"])]
    random.Random(job["seed"]).shuffle(batches)
    clock.begin(rows)
    for batch in batches:
        width = max(len(row["input_ids"]) for row in batch)
        ids, labels = torch.zeros(len(batch), width, dtype=torch.long), torch.full((len(batch), width), -100)
        mask = torch.zeros(len(batch), width, dtype=torch.long)
        for line, row in enumerate(batch):
            size = len(row["input_ids"])
            ids[line, :size], labels[line, :size] = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
            mask[line, :size] = 1
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}
        loss = model(**inputs, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.losses.append(loss.item())
        clock.step()
    model.save_pretrained(f"{job['folder']}/trained")


def llamafactory(job: dict[str, Any], clock: Clock) -> None:
    """LLaMA-Factory with its defaults (bfloat16 weights and recomputed activations), through its own entry."""
    os.environ["DISABLE_VERSION_CHECK"] = "1"
    from llamafactory.train.tuner import run_exp

    folder = Path(job["folder"])
    rows = [
        {"messages": [{"role": one["role"], "content": one["content"]} for one in [*row["prompt"], *row["completion"]]]}
        for row in job["rows"]
    ]
    (folder / "rows.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    about = {"file_name": "rows.json", "formatting": "sharegpt", "columns": {"messages": "messages"}}
    about["tags"] = {**tags, "system_tag": "system"}
    (folder / "dataset_info.json").write_text(json.dumps({"rows": about}), encoding="utf-8")
    run_exp(
        {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": job["model"],
            "template": job["template"],
            "finetuning_type": "full" if job["full"] else "lora",
            **({} if job["full"] else {"lora_rank": job["r"], "lora_alpha": job["lora_alpha"], "lora_target": "all"}),
            "dataset_dir": str(folder),
            "dataset": "rows",
            "cutoff_len": job["length"],
            "output_dir": f"{folder}/trained",
            "per_device_train_batch_size": job["batch"],
            "learning_rate": job["learning_rate"],
            "lr_scheduler_type": "constant",
            "num_train_epochs": 1,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "seed": job["seed"],
            "bf16": job["device"] == "cuda",  # as its board sets it; on a CPU it is refused
            "disable_tqdm": True,
        },
        callbacks=[watcher(clock)],
    )


def unsloth(job: dict[str, Any], clock: Clock) -> None:
    """Unsloth's notebook: its loader, its LoRA, TRL's trainer with its patches. Needs a GPU."""
    from unsloth import FastLanguageModel  # isort: skip  it patches what is imported after it
    import datasets
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = FastLanguageModel.from_pretrained(
        job["model"], max_seq_length=job["length"], load_in_4bit=False, full_finetuning=job["full"]
    )
    if not job["full"]:
        model = FastLanguageModel.get_peft_model(
            model, r=job["r"], lora_alpha=job["lora_alpha"], use_gradient_checkpointing="unsloth"
        )
    SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_list(job["rows"]),
        args=SFTConfig(**common(job)),
        callbacks=[watcher(clock)],
    ).train()
    model.save_pretrained(f"{job['folder']}/trained")


CONTENDERS = {
    "trl": trl,
    "trl-tuned": lambda job, clock: trl(job, clock, tuned=True),
    "trl-liger": lambda job, clock: trl(job, clock, tuned=True, liger=True),
    "loop": loop,
    "llamafactory": llamafactory,
    "unsloth": unsloth,
}


def main() -> None:
    name, path = sys.argv[1:]
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    clock = Clock(job)
    CONTENDERS[name](job, clock)
    Path(job["out"]).write_text(json.dumps(clock.result()), encoding="utf-8")


if __name__ == "__main__":
    main()
