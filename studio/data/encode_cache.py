"""All rows of a dataset as examples, encoded once: by several processes where they are many, and kept on the disk.

What is kept hangs on everything that an example depends on: the conversations (by the identity of their sources and the
settings that made them), which of them are taken, the tokenizer with its chat template, the settings of the encoder,
and the versions of the libraries. It is a cache and no more; whoever deletes it loses seconds.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.data.classes import Classes
from studio.data.encode import Encoded, Result, collect, encode_rows, encoded_one_by_one
from studio.errors import StudioError
from studio.recipe import ENCODER_SETTINGS, DataSpec
from studio.workspace import Workspace

if TYPE_CHECKING:
    import datasets

FOLDER = "datasets/encoded"
MOST_KEPT = 24  # datasets; those that were not used for longest go first
SHOWN_CHARACTERS = 200  # of a row's text, kept for messages about it
PARALLEL_ROWS = 4000  # fewer are encoded before a second process is ready
_VERSION = 3
_CHUNK = 512  # rows that a process takes at a time


def encode_once(
    tokenizer: Any,
    rows: datasets.Dataset,
    data: DataSpec,
    progress: Callable[[int], None] = lambda done: None,
    classes: Classes | None = None,
    processes: int | None = None,
) -> tuple[list[Encoded], dict[str, list[int]]]:
    """What :func:`studio.data.encode_rows` gives, from the workspace if the very same was asked for before.

    The examples have no offsets, and of their text only what a message about a row shows.

    Args:
        rows: of :func:`studio.data.load_conversations`, all or some; of other datasets nothing is kept.
        processes: at most so many encode together; None takes one for each core.

    Raises:
        StudioError: as ``encode_rows``.
    """
    key = _key(tokenizer, rows, data, classes)
    found = _read(key) if key else None
    if found is not None:
        progress(len(rows))
        return found
    processes = processes or len(os.sched_getaffinity(0))
    if processes > 1 and len(rows) >= PARALLEL_ROWS and hasattr(os, "fork"):
        kept, dropped = collect(_in_parallel(tokenizer, rows, data, classes, processes), data, progress, classes)
    else:
        kept, dropped = encode_rows(tokenizer, rows, data, progress, classes)
        kept = [_slim(example) for example in kept]
    if key:
        _write(key, kept, dropped)
    return kept, dropped


def short_text(example: Encoded) -> str:
    """A row in a line: the text around where the loss begins, or its beginning."""
    if not example.offsets:
        return example.text
    first = next((i for i, label in enumerate(example.labels) if label != -100), None)
    at = example.offsets[first][0] if first is not None and first < len(example.offsets) else 0
    start = max(0, at - SHOWN_CHARACTERS // 2)
    cut = example.text[start : start + SHOWN_CHARACTERS]
    more = " …" if start + SHOWN_CHARACTERS < len(example.text) else ""
    return ("… " if start else "") + " ".join(cut.split()) + more


def _slim(example: Encoded) -> Encoded:
    return replace(example, text=short_text(example), offsets=[])


def _key(tokenizer: Any, rows: Any, data: DataSpec, classes: Classes | None) -> str | None:
    """A digest of all that the examples depend on; None for rows whose origin is not known."""
    origin = getattr(rows, "kept_as", None)
    if origin is None or not getattr(tokenizer, "is_fast", False):
        return None
    template = tokenizer.chat_template
    parts = [
        _VERSION,
        origin,
        {name: getattr(data, name) for name in ENCODER_SETTINGS},
        [template, sorted(map(str, tokenizer.special_tokens_map.items())), tokenizer.__class__.__name__],
        asdict(classes) if classes else None,
        [version(name) for name in ("transformers", "tokenizers", "jinja2")],
    ]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    return digest.hexdigest()[:32]


def _path(key: str) -> Path:
    return Workspace.current().folder(FOLDER) / f"{key}.arrow"


def _write(key: str, kept: list[Encoded], dropped: dict[str, list[int]]) -> None:
    """Write aside and rename. Where nothing can be written, nothing is kept."""
    import pyarrow as pa

    integers = pa.list_(pa.int32())
    fields = {"input_ids": integers, "labels": integers, "text": pa.large_string(), "cut": pa.int64()}
    fields |= {"label": pa.string(), "row": pa.int64(), "turn": pa.int64()}
    schema = pa.schema(list(fields.items()), metadata={"dropped": json.dumps(dropped)})
    path = _path(key)
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    with contextlib.suppress(OSError, pa.ArrowException):
        try:
            with pa.OSFile(str(aside), "wb") as file, pa.ipc.new_file(file, schema) as writer:
                for start in range(0, len(kept), 4096):
                    some = kept[start : start + 4096]
                    columns = {name: [getattr(one, name) for one in some] for name in fields}
                    columns["label"] = [None if one is None else json.dumps(one) for one in columns["label"]]
                    writer.write_batch(pa.RecordBatch.from_pydict(columns, schema=schema))
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        for old in sorted(path.parent.glob("*.arrow"), key=lambda one: one.stat().st_mtime)[:-MOST_KEPT]:
            old.unlink(missing_ok=True)


def _read(key: str) -> tuple[list[Encoded], dict[str, list[int]]] | None:
    """What was kept; None if nothing was, or if it cannot be read."""
    import pyarrow as pa

    path = _path(key)
    if not path.exists():
        return None
    try:
        os.utime(path)
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
            kept = [
                Encoded(**{**one, "label": None if one["label"] is None else json.loads(one["label"])})
                for number in range(reader.num_record_batches)
                for one in reader.get_batch(number).to_pylist()
            ]
            return kept, json.loads(reader.schema.metadata[b"dropped"])
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError):
        return None


_worker: dict[str, Any] = {}  # in a forked process of the pool alone: what it encodes


def _in_parallel(
    tokenizer: Any, rows: Any, data: DataSpec, classes: Classes | None, processes: int
) -> Iterator[tuple[int, Result]]:
    """Rows encoded by forked processes, in their order."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    starts = range(0, len(rows), _CHUNK)
    given = (tokenizer, rows, data, classes, os.getpid())
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), _be_worker, given) as pool:
        try:
            for some in pool.map(_encode_chunk, starts):
                yield from some
        finally:
            pool.shutdown(cancel_futures=True)


def _be_worker(tokenizer: Any, rows: Any, data: DataSpec, classes: Classes | None, parent: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _worker.update(tokenizer=tokenizer, rows=rows, data=data, classes=classes)
    gc.freeze()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)  # who asked for the rows was killed


def _encode_chunk(start: int) -> list[tuple[int, Result]]:
    rows = _worker["rows"]
    some = rows.select(range(start, min(start + _CHUNK, len(rows))))
    found = encoded_one_by_one(_worker["tokenizer"], some, _worker["data"], _worker["classes"], first=start + 1)
    return [(number, one if isinstance(one, StudioError) else _slim(one)) for number, one in found]
