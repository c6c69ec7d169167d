"""The report over a recipe's whole dataset: ``python -m studio.training.check RECIPE``, in a process of its own.

The page starts it and reads its progress and its result from the workspace (:func:`check_state`). The result is kept
under a key of everything that it depends on, so the second look at the same data is at once. It stands with the
training because it encodes exactly as the worker does.
"""

from __future__ import annotations

import contextlib
import gc
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
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import psutil

from studio.data import classes_of, read_conversations, sources
from studio.data.conversations import Conversation, held_out_source
from studio.data.duplicates import signature
from studio.data.encode import Encoded, encode_batch, one_per_reply
from studio.data.inspect_row import Inspection, inspect_row
from studio.data.quality_report import Examiner, Index, Report
from studio.errors import StudioError
from studio.folders import files_below
from studio.jobs.progress import alive
from studio.recipe import Recipe, is_template_file
from studio.workspace import Workspace

_CHUNK = 256  # rows encoded at a time
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".h5", ".onnx", ".msgpack")
_VERSION = 9  # of what the report says; an older one is made anew
Progress = Callable[[int], None]
Encode = Callable[[list[dict[str, Any]]], list[Encoded | StudioError]]


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
    tokenizer, _ = prepared_tokenizer(recipe)
    data, task = recipe.data, recipe.model.task
    encode = encoder(tokenizer, recipe)
    examiner = Examiner(data, batch_size=recipe.train.per_device_train_batch_size)
    if data.holdout_source:
        held_out = read_conversations(held_out_source(data), task=task).conversations
        for inspection in _inspected(held_out, encode, recipe, lambda rows: None):
            examiner.add_held_out(inspection)
    reading = read_conversations(data, task=task)
    for inspection in _inspected(reading.conversations, encode, recipe, progress):
        examiner.add(inspection)
    report = examiner.report()
    report.unused_columns, report.splits, report.notes = reading.unused_columns(), reading.splits(), reading.notes()
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    examiner.index().save(aside)
    aside.replace(index_path(path))
    aside.write_text(report.to_json(), encoding="utf-8")
    aside.replace(path)
    return report


def encoder(tokenizer: Any, recipe: Recipe) -> Encode:
    """How the rows of a recipe become examples: as :func:`studio.data.encode.encode_batch` says, by its settings.

    Raises:
        StudioError: a classifier's data has fewer than two classes, or cannot be read.
    """
    classes = classes_of(recipe.data, recipe.train.seed) if recipe.model.task == "seq_cls" else None
    return partial(encode_batch, tokenizer, data=recipe.data, classes=classes)


def _inspected(
    conversations: Iterator[Conversation], encode: Encode, recipe: Recipe, progress: Progress
) -> Iterator[Inspection]:
    """What there is to say about each row, in order. Many rows are worked on by several processes at once."""
    chunks = iter(lambda: list(islice(conversations, _CHUNK)), [])
    first = list(islice(chunks, 2))
    done = 0
    processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if len(first) < 2 or processes == 1:
        answers = (_inspect_chunk(encode, recipe, chunk) for chunk in chain(first, chunks))
    else:
        answers = _in_parallel(encode, recipe, chain(first, chunks), processes)
    for answer in answers:
        yield from answer
        done += len(answer)
        progress(done)


def _inspect_chunk(encode: Encode, recipe: Recipe, conversations: list[Conversation]) -> list[Inspection]:
    rows = [[] if c.dropped else one_per_reply(c.content(), recipe.data) for c in conversations]
    encoded = iter(encode([row for own in rows for row in own]))
    examples = [[next(encoded) for _ in own] for own in rows]
    seed = recipe.train.seed
    return [inspect_row(c, made or None, seed) for c, made in zip(conversations, examples, strict=True)]


_worker: dict[str, Any] = {}  # in a forked process of the pool alone: what it encodes with


def _in_parallel(
    encode: Encode, recipe: Recipe, chunks: Iterator[list[Conversation]], processes: int
) -> Iterator[list[Inspection]]:
    """Chunks worked on by forked processes, in order; only a few are under way, so that memory stays small."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    signature("warm up")  # so that its library is imported once, before the fork
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, fork, _be_worker, (encode, recipe, os.getpid())) as pool:
        under_way: deque = deque()
        try:
            for chunk in chunks:
                under_way.append(pool.submit(_inspect_in_worker, chunk))
                if len(under_way) > 2 * processes:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _be_worker(encode: Encode, recipe: Recipe, parent: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _worker.update(encode=encode, recipe=recipe)
    gc.freeze()  # what was there before the fork is not looked through again and again
    gc.set_threshold(50_000)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)  # the check was killed


def _inspect_in_worker(chunk: list[Conversation]) -> list[Inspection]:
    return _inspect_chunk(_worker["encode"], _worker["recipe"], chunk)


def prepared_tokenizer(recipe: Recipe) -> tuple[Any, list[str]]:
    """The tokenizer of a recipe as the worker prepares it, with the notes on what was added.

    Raises:
        StudioError: the model is not on this machine yet, or its tokenizer or chat template cannot be used.
    """
    from studio.models.classification import prepare
    from studio.models.load import load_tokenizer

    folder = _folder(recipe)
    tokenizer = load_tokenizer(folder, trust_remote_code=recipe.model.trust_remote_code)
    return tokenizer, list(prepare(tokenizer, None, recipe))


def tokenizer_key(recipe: Recipe) -> tuple:
    """What :func:`prepared_tokenizer` depends on; equal for recipes that can share one."""
    folder, template = _folder(recipe), recipe.data.chat_template
    model = recipe.model
    return (str(folder), _stamps(folder), template, _changed(template), model.trust_remote_code, model.task)


def _folder(recipe: Recipe) -> Path:
    from studio.models import store

    folder = store.local_folder(recipe.model)
    if folder is None:
        raise StudioError(
            "The model is not on this machine yet, and its tokenizer is needed to show the rows.",
            "Get it in the Model tab; it is fetched once.",
        )
    return folder


def _stamps(folder: Path) -> tuple:
    """When the files of a tokenizer and its chat templates were last changed; weights are left out."""
    files = sorted(path for path in files_below(folder, "model.id") if path.suffix not in _WEIGHTS)
    return tuple((str(path.relative_to(folder)), path.stat().st_mtime_ns) for path in files)


def _changed(template: str) -> int:
    """When a template's file was last changed, in nanoseconds; 0 if it is none or is not there."""
    path = Path(template).expanduser() if is_template_file(template) else None
    return path.stat().st_mtime_ns if path and path.is_file() else 0


def index_path(report: Path) -> Path:
    """Where the rows and findings of a report are kept, beside it."""
    return report.with_suffix(".npz")


def report_path(recipe: Recipe) -> Path:
    """Where the report of a recipe is kept: a name made of the data, its settings, the model and the batch size.

    Raises:
        StudioError: there is no such dataset or model.
    """
    from studio.models import store

    data = recipe.data
    template = data.chat_template
    folder = store.local_folder(recipe.model)
    parts = [
        _VERSION,
        sources.identity(data),
        sources.identity(held_out_source(data)) if data.holdout_source else None,
        data.model_dump(mode="json", exclude={"eval_split", "invalid_rows"}),
        _changed(template),
        recipe.model.id,
        recipe.model.task,
        str(folder),
        _stamps(folder) if folder else None,
        recipe.train.per_device_train_batch_size,
        recipe.train.seed,
    ]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]
    return Workspace.current().folder("datasets/reports") / f"{key}.json"


def kept_index(recipe: Recipe) -> Index | None:
    """The rows and findings of a recipe's report, if it has been made.

    Raises:
        StudioError: there is no such dataset or model.
    """
    path = index_path(report_path(recipe))
    return Index.load(path) if path.exists() else None


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


def say_progress(
    report: Path, process: int, rows: int = 0, state: str = "working", error: list[str] | None = None
) -> None:
    """Write how far the process that makes a report has come."""
    path = report.with_suffix(".progress")
    values = {"state": state, "rows": rows, "error": error, "pid": process, "time": time.time()}
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    aside.write_text(json.dumps(values), encoding="utf-8")
    aside.replace(path)


def main(arguments: list[str]) -> int:
    recipe = Recipe.load(arguments[0])
    path = report_path(recipe)

    def write(rows: int, state: str = "working", error: list[str] | None = None) -> None:
        say_progress(path, os.getpid(), rows, state, error)

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
    except Exception as error:
        write(0, "failed", [f"The check failed: {type(error).__name__}: {error}.", "Its log is beside its report."])
        raise
    path.with_suffix(".progress").unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite end closes the pool too
    sys.exit(main(sys.argv[1:]))
