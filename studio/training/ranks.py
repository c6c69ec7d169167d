"""Several processes that train one model, each on its share of every batch. One process alone does nothing here.

A process is called a rank, as in torch.distributed. Rank 0 speaks for all: it writes the events, the checkpoints and
the model, and what it finds (a stop file, the validation loss) is what every rank goes by.
``studio.training.rank_group`` starts the ranks and says how they ended.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.recipe import Recipe
from studio.runs import EventLog, Run

_TIMEOUT = timedelta(hours=2)  # for the slowest thing that rank 0 does alone: fetching a model, reading the data
_LEADER_SECONDS = 0.5  # between two looks at whether the process that started the ranks is alive


def rank() -> int:
    """The number of this process among all that train, over all machines."""
    return int(os.environ.get("STUDIO_RANK", "0"))


def local_rank() -> int:
    """The number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) if count() > 1 else 0


def count() -> int:
    """How many processes train together, over all machines."""
    return int(os.environ.get("STUDIO_RANKS", "1"))


def is_main_process() -> bool:
    return rank() == 0


class SilentLog(EventLog):
    """The event log of every rank but the first: one writer is enough."""

    def __init__(self):
        pass

    def write(self, kind: str, **fields: Any) -> dict[str, Any]:
        return {"time": time.time(), "kind": kind, **fields}

    def close(self) -> None:
        pass


def event_log(run: Run) -> EventLog:
    """``events.jsonl``, for the rank that writes it."""
    return EventLog(run.events_path) if is_main_process() else SilentLog()


def begin(device: str) -> None:
    """Meet the other ranks; ends this process when the one that started it dies.

    Raises:
        StudioError: there are fewer GPUs than ranks on this machine.
    """
    if count() == 1:
        return
    import torch

    _end_with_leader()
    if device == "cuda":
        if torch.cuda.device_count() <= local_rank():
            raise StudioError(
                f"train.num_processes wants a GPU for each process, and this machine has {torch.cuda.device_count()}.",
                "Lower train.num_processes, or set train.device to cpu.",
                field="train.num_processes",
            )
        torch.cuda.set_device(local_rank())
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        init_method=os.environ["STUDIO_MEETING"],
        rank=rank(),
        world_size=count(),
        timeout=_TIMEOUT,
    )


def end() -> None:
    """Wait for the others and part."""
    if count() > 1:
        import torch

        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _end_with_leader() -> None:
    leader = os.getppid()

    def watch() -> None:
        while os.getppid() == leader:
            time.sleep(_LEADER_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="leader", daemon=True).start()


@contextmanager
def main_process_first() -> Iterator[None]:
    """Rank 0 does the block, then the others: they find its files there."""
    if count() > 1 and not is_main_process():
        wait()
    yield
    if count() > 1 and is_main_process():
        wait()


def wait() -> None:
    """Until every rank is here."""
    if count() > 1:
        broadcast(None)


def broadcast(value: Any) -> Any:
    """Rank 0's value (anything that can be pickled), on every rank."""
    if count() == 1:
        return value
    import torch

    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def all_reduce_sum(*numbers: float) -> list[float]:
    """Each number summed over the ranks, in float64."""
    if count() == 1:
        return list(numbers)
    import torch

    total = torch.tensor(numbers, dtype=torch.float64)
    torch.distributed.all_reduce(total)
    return total.tolist()


def check_same(what: str, digest: str) -> None:
    """All ranks must have found the same thing, or they would train on different data."""
    assert broadcast(digest) == digest, f"rank {rank()} has other {what} than rank 0"


def report(run: Run, problem: StudioError, details: str, error: BaseException) -> None:
    """Leave word of why this rank failed, for the leader."""
    import torch

    lost_a_peer = isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()
    words = {"what": problem.what, "fix": problem.fix, "traceback": details, "time": time.time()}
    path = report_path(run.folder, rank())
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**words, "lost_a_peer": lost_a_peer}), encoding="utf-8")


def report_path(folder: Path, number: int) -> Path:
    return folder / "ranks" / f"rank-{number}.json"


def arguments(recipe: Recipe, device: str) -> dict[str, Any]:
    """What transformers' ``TrainingArguments`` want to know of several ranks.

    Raises:
        StudioError: FSDP or DeepSpeed is asked for without GPUs.
    """
    if count() == 1:
        return {}
    kind = recipe.train.distributed
    if kind == "ddp":
        # a forward pass exchanges nothing, since the ranks need not make equally many (studio.models.head)
        return {"ddp_backend": "gloo" if device == "cpu" else "nccl", "ddp_broadcast_buffers": False}
    if device == "cpu":
        raise StudioError(
            f"train.distributed {kind} spreads weights over GPUs, and there is none.",
            "Set train.distributed to ddp.",
            field="train.distributed",
        )
    if kind == "fsdp":
        return {"fsdp": "full_shard", "fsdp_config": {"fsdp_version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}}
    zero = {"stage": 2, "overlap_comm": True, "contiguous_gradients": True}
    auto = {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_clipping": "auto"}
    return {"deepspeed": {**auto, "gradient_accumulation_steps": "auto", "zero_optimization": zero}}
