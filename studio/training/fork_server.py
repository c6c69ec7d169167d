"""``python -m studio.training.fork_server FD``: imports what a worker needs, and forks a worker for each run.

Most of the time from a launch to its first step goes into imports. This process does them ahead and then waits on a
socket (file descriptor ``FD``). It never computes: it has one thread, no CUDA context and no OpenMP pool, so that what
is forked from it is as good as new. When the other end of the socket closes, it ends; its workers go on.

Messages are JSON, one a line. The studio sends ``{"folder", "environment", "cwd"}`` for a run, or ``{"stay": true}``.
Back come ``{"ready": true}`` once, ``{"pid"}`` from each worker, or ``{"refused", "for_good"}``.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

IDLE_SECONDS = 1800.0  # without a word from the studio; then the memory is given back
_STUDIO = Path(__file__).resolve().parent.parent
_ANY = (
    *("torch", "torch._dynamo", "torch._inductor.compile_fx", "datasets", "transformers.modeling_utils"),
    *("transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama"),
)
_ALL = (  # beside those: PEFT brings bitsandbytes, which begins CUDA as it is imported where there is a GPU
    *(
        "studio.training.worker",
        "studio.training.trainer",
        "studio.training.classification_trainer",
        "studio.training.acceleration.fused_lora",
    ),
    *("studio.models.load", "studio.models.methods", "studio.models.memory_estimate", "studio.models.adapters"),
)
_HARMLESS_THREADS = {"jemalloc_bg_thd"}  # PyArrow's allocator; jemalloc puts it right after a fork


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    folder = serve(channel)
    if folder is None:
        return
    from studio.training import exit_code
    from studio.training.worker import train

    sys.exit(exit_code(train(folder)))


def serve(channel: socket.socket) -> Path | None:
    """Import, then fork a worker for each request. Returns None at the end, and in a worker the folder of its run."""
    code = stamp()
    preload()
    if why := unfit():
        _say(channel, refused=why, for_good=True)
        return None
    gc.collect()
    gc.freeze()  # what was imported is shared with the workers: nothing of it is touched by the garbage collector
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # workers that end leave no zombies
    _say(channel, ready=True)
    for request in _requests(channel):
        if "folder" not in request:
            continue
        if stamp() != code:
            _say(channel, refused="the studio's code has changed", for_good=False)
            return None
        if os.fork() == 0:
            return become_worker(channel, request)
    return None


def preload() -> None:
    """Import what a worker imports. Nothing here may compute."""
    for name in _ANY if has_gpu() else (*_ANY, *_ALL):
        importlib.import_module(name)


def has_gpu() -> bool:
    """Whether there is an NVIDIA driver; asked without CUDA, which does not survive a fork."""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()


def unfit() -> str:
    """Why this process cannot be forked; nothing if it can."""
    import torch

    if torch.cuda.is_initialized():
        return "CUDA has begun"
    tasks = [Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")]
    more = sorted(name for name in tasks if name not in _HARMLESS_THREADS)
    return f"there are several threads: {', '.join(more)}" if len(more) > 1 else ""


def become_worker(channel: socket.socket, request: dict[str, Any]) -> Path | None:
    """Make of a forked process what a fresh worker is, and say so in ``process.json`` and on the socket.

    Returns the run's folder, or None if another process has taken the run or the GPU cannot be used.
    """
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    folder = Path(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    with (folder / "log.txt").open("ab") as log, open(os.devnull, "rb") as nothing:
        for source, number in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source.fileno(), number)
    from studio.jobs import process

    command = [sys.executable, "-u", "-m", "studio.training", str(folder)]
    sys.argv = [str(_STUDIO / "training" / "__main__.py"), str(folder)]
    if has_gpu() and not _cuda_works():
        _say(channel, refused="CUDA cannot be used after a fork", for_good=True)
        return None
    mine = process.write_first(folder / "process.json", process.describe(os.getpid(), command))
    if mine:
        _say(channel, pid=os.getpid())
    channel.close()  # or the studio would not see the server end
    return folder if mine else None


def _cuda_works() -> bool:
    """Whether the GPU computes, tried before the run is begun. Without a visible GPU there is nothing to go wrong."""
    import torch

    if not torch.cuda.is_available():
        return os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    try:
        return torch.ones(1, device="cuda").item() == 1
    except RuntimeError:
        return False


def stamp() -> list[tuple[str, int, int]]:
    """What the code on disk is: the studio's files with times and sizes, and when a package last came or went."""
    files = [*sorted(_STUDIO.rglob("*.py")), *(Path(path) for path in sys.path if path.endswith("site-packages"))]
    return [(str(path), found.st_mtime_ns, found.st_size) for path in files if (found := _stat(path))]


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _requests(channel: socket.socket):
    """Messages as they come, until the other end closes or says nothing for too long."""
    waiting = b""
    while select.select([channel], [], [], IDLE_SECONDS)[0]:
        data = channel.recv(1 << 16)
        if not data:
            return
        *lines, waiting = (waiting + data).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _say(channel: socket.socket, **message: Any) -> None:
    try:
        channel.sendall(json.dumps(message).encode() + b"\n")
    except OSError:  # the studio has ended: the run goes on without it
        return


if __name__ == "__main__":
    main()
