"""The report over a recipe's whole dataset: ``python -m studio.training.check RECIPE``, in a process of its own.

The page starts it and reads its progress and its result from the workspace (:func:`check_state`). The result is kept
under a key of everything that it depends on, so the second look at the same data is at once. It stands with the
training because it encodes exactly as the worker does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import psutil

from studio.data import encode_row, read_conversations
from studio.data import files as data_files
from studio.data.conversations import Conversation, locate
from studio.data.encode import Encoded
from studio.data.report import Report, examine
from studio.errors import StudioError
from studio.models.progress import alive
from studio.recipe import Recipe
from studio.workspace import Workspace

_CHUNK = 250  # rows encoded at a time
_VERSION = 1  # of what the report says; an older one is made anew
Progress = Callable[[int], None]


def check(recipe: Recipe, progress: Progress = lambda rows: None) -> Report:
    """The report over every row of a recipe's dataset, from the workspace if nothing has changed since.

    Args:
        progress: called with the number of rows done, now and then.

    Raises:
        StudioError: the recipe has problems, the data cannot be read, or the model is not on this machine.
    """
    recipe.check()
    path = report_path(recipe)
    if report := _kept(path):
        return report
    tokenizer = _tokenizer(recipe)
    reading = read_conversations(recipe.data)
    rows = _encoded(reading.conversations, tokenizer, recipe, progress)
    report = examine(rows, recipe.data, batch_size=recipe.train.per_device_train_batch_size, seed=recipe.train.seed)
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    aside.write_text(report.to_json(), encoding="utf-8")
    aside.replace(path)
    return report


def _encoded(
    conversations: Iterator[Conversation], tokenizer: Any, recipe: Recipe, progress: Progress
) -> Iterator[tuple[Conversation, Encoded | str | None]]:
    """The conversations with their examples, in order. Many are encoded by several processes at once."""
    chunks = iter(lambda: list(islice(conversations, _CHUNK)), [])
    first = list(islice(chunks, 2))
    done = 0
    processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if len(first) < 2 or processes == 1:
        answers = (_encode_chunk(tokenizer, recipe, chunk) for chunk in chain(first, chunks))
    else:
        answers = _in_parallel(tokenizer, recipe, chain(first, chunks), processes)
    for answer in answers:
        yield from answer
        done += len(answer)
        progress(done)


def _encode_chunk(
    tokenizer: Any, recipe: Recipe, conversations: list[Conversation]
) -> list[tuple[Conversation, Encoded | str | None]]:
    answer: list[tuple[Conversation, Encoded | str | None]] = []
    for conversation in conversations:
        example: Encoded | str | None = None
        if not conversation.dropped:
            row = {"messages": conversation.messages, "text": conversation.text}
            try:
                example = replace(encode_row(tokenizer, row, recipe.data), text="", offsets=[])  # less to hand over
            except StudioError as error:
                example = error.what
        answer.append((conversation, example))
    return answer


_worker: dict[str, Any] = {}  # in a forked process of the pool alone: what it encodes with


def _in_parallel(
    tokenizer: Any, recipe: Recipe, chunks: Iterator[list[Conversation]], processes: int
) -> Iterator[list[tuple[Conversation, Encoded | str | None]]]:
    """Chunks encoded by forked processes, in order; only a few are under way, so that memory stays small."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, fork, _be_worker, (tokenizer, recipe, os.getpid())) as pool:
        under_way: deque = deque()
        try:
            for chunk in chunks:
                under_way.append(pool.submit(_encode_in_worker, chunk))
                if len(under_way) > 2 * processes:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _be_worker(tokenizer: Any, recipe: Recipe, parent: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _worker.update(tokenizer=tokenizer, recipe=recipe)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)  # the check was killed


def _encode_in_worker(chunk: list[Conversation]) -> list[tuple[Conversation, Encoded | str | None]]:
    return _encode_chunk(_worker["tokenizer"], _worker["recipe"], chunk)


def _tokenizer(recipe: Recipe) -> Any:
    from studio.models import store
    from studio.models.chat import prepare_chat
    from studio.models.load import load_tokenizer

    folder = store.local_folder(recipe.model)
    if folder is None:
        raise StudioError("The model is not on this machine yet, and its tokenizer is needed.", "Get the model first.")
    tokenizer = load_tokenizer(folder, trust_remote_code=recipe.model.trust_remote_code)
    prepare_chat(tokenizer, None, recipe.data.chat_template)
    return tokenizer


def report_path(recipe: Recipe) -> Path:
    """Where the report of a recipe is kept: a name made of the data, its settings, the model and the batch size.

    Raises:
        StudioError: there is no such dataset or model.
    """
    from studio.data import hub
    from studio.models import store

    data = recipe.data
    path = locate(data, data.split)
    template = Path(data.chat_template)
    parts = [
        _VERSION,
        data_files.identity(path) if path else hub.identity(data),
        data.model_dump(mode="json", exclude={"eval_split"}),
        template.stat().st_mtime_ns if template.is_file() else 0,
        recipe.model.id,
        str(store.local_folder(recipe.model)),
        recipe.train.per_device_train_batch_size,
        recipe.train.seed,
    ]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]
    return Workspace.current().folder("datasets/reports") / f"{key}.json"


def _kept(path: Path) -> Report | None:
    try:
        return Report.from_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # the last three: written by another version
        return None


def check_state(recipe: Recipe) -> tuple[Report | None, dict | None]:
    """What is known about the check of a recipe's data: the report, or how far a process that makes it has come.

    Returns:
        The report or None; and ``{"state", "rows", "error"}`` with ``state`` one of ``working`` and ``failed``, or None
        if nobody has asked for it.

    Raises:
        StudioError: there is no such dataset or model.
    """
    path = report_path(recipe)
    if report := _kept(path):
        return report, None
    try:
        state = json.loads(path.with_suffix(".progress").read_text(encoding="utf-8"))
        if state["state"] == "working" and not alive(state["pid"], state["time"]):
            state |= {"state": "failed", "error": ["The check was interrupted.", "Start it again."]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None, None
    return None, state


def cancel(recipe: Recipe) -> None:
    """End the process that makes the report of a recipe, if there is one."""
    _, state = check_state(recipe)
    if state and state["state"] == "working":
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            psutil.Process(state["pid"]).terminate()


def main(arguments: list[str]) -> int:
    recipe = Recipe.load(arguments[0])
    path = report_path(recipe).with_suffix(".progress")

    def write(rows: int, state: str = "working", error: list[str] | None = None) -> None:
        values = {"state": state, "rows": rows, "error": error, "pid": os.getpid(), "time": time.time()}
        aside = path.with_name(f"{path.name}.{os.getpid()}.part")
        aside.write_text(json.dumps(values), encoding="utf-8")
        aside.replace(path)

    last = 0.0

    def progress(rows: int) -> None:
        nonlocal last
        if time.monotonic() - last > 0.3:
            last = time.monotonic()
            write(rows)

    write(0)
    try:
        check(recipe, progress)
    except StudioError as error:
        write(0, "failed", [error.what, error.fix])
        print(f"{error.what} {error.fix}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        write(0, "failed", ["The check was cancelled.", "Start it again when you like."])
        return 130
    path.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite end closes the pool too
    sys.exit(main(sys.argv[1:]))
