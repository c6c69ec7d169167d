"""One file from the Hub to the disk: resumed from a byte, counted, and checked against its hash."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import time
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.hub_status import endpoint
from studio.jobs.progress import Report
from studio.models.problems import is_connection_problem

READ_SECONDS = 15.0  # a connection that brings nothing for so long is broken


def fetch_file(model_id: str, commit: str, file: Any, part: Path, token: str | None, counter: Counter) -> None:
    """Bring one file of a repository into ``part``, or the rest of it; done when its hash is right.

    Args:
        file: a sibling of the Hub's ``ModelInfo``, with size and hashes.

    Raises:
        StudioError: the file arrived damaged, or names a place outside ``part``.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    target = part / file.rfilename
    if not target.resolve().is_relative_to(part.resolve()):
        raise StudioError(f"{model_id} lists a file outside its folder: {file.rfilename!r}.", "Do not use this model.")
    if target.exists():
        counter.add(file.size or 0)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(target.name + ".incomplete")
    # A half file may hold a block of zeros at its end after a power cut: the hash below finds it.
    resume = half.stat().st_size if half.exists() else 0
    if file.size is not None and resume > file.size:
        half.unlink()
        resume = 0
    counter.add(resume)
    url = hf_hub_url(model_id, file.rfilename, revision=commit, endpoint=endpoint())
    headers = build_hf_headers(token=token) | {"Accept-Encoding": "identity"}
    with Watched(half, counter) as stream:
        if file.size is None or resume < file.size:
            _receive(url, headers, stream)
    if not hash_is_right(half, file):
        half.unlink()
        raise StudioError(
            f"{file.rfilename} of {model_id} arrived damaged.", "Start again; only this file is fetched anew."
        )
    half.replace(target)


def _receive(url: str, headers: dict[str, str], stream: Watched) -> None:
    """The rest of a file, from the byte where ``stream`` ends; a broken connection is taken up again five times.

    Not ``http_get`` of huggingface_hub: it hands on whole blocks of 10 MB, and what it has of a block is lost.
    """
    from huggingface_hub.utils import get_session, hf_raise_for_status

    failures = 0
    while True:
        start = stream.seek(0, os.SEEK_END)
        span = {"Range": f"bytes={start}-"} if start else {}
        try:
            with get_session().stream("GET", url, headers=headers | span, timeout=READ_SECONDS) as response:
                if response.status_code == 416:  # there is nothing after this byte
                    return
                hf_raise_for_status(response)
                if start and response.status_code == 200:  # the whole file once more
                    stream.truncate(0)
                    stream.seek(0)
                for block in response.iter_bytes():
                    stream.write(block)
            return
        except Exception as error:
            failures = 1 if stream.tell() > start else failures + 1
            if failures > 5 or hasattr(error, "response") or not is_connection_problem(error):
                raise
            time.sleep(min(failures, 3))


class Counter:
    """Adds up the bytes of several threads and reports them; ``stop`` ends the threads."""

    def __init__(self, what: str, total: int, progress: Report):
        self.what, self.total, self.progress = what, total, progress
        self.bytes = 0
        self.stop = False
        self._lock = threading.Lock()
        progress(what, 0, total)

    def add(self, count: int) -> None:
        with self._lock:
            self.bytes += count
            if count:
                self.progress(self.what, self.bytes, self.total)


class Watched(io.FileIO):
    """A file open for writing that counts; unbuffered, so that a killed process leaves all it got on the disk."""

    def __init__(self, path: Path, counter: Counter):
        super().__init__(path, "r+b" if path.exists() else "w+b")
        self._counter = counter

    def write(self, data) -> int:
        if self._counter.stop:
            raise InterruptedError("another file's download failed")
        view = memoryview(data)
        written = 0
        while written < len(view):
            written += super().write(view[written:])
        self._counter.add(written)
        return written

    def truncate(self, size: int | None = None) -> int:
        before = os.fstat(self.fileno()).st_size
        after = super().truncate(size)
        self._counter.add(after - before)
        return after


def hash_is_right(path: Path, file: Any) -> bool:
    """Large files are named by their sha256; small ones by git's blob id: sha1 of ``blob SIZE\\0`` and the content."""
    if file.lfs is not None:
        digest, expected = hashlib.sha256(), file.lfs.sha256
    elif file.blob_id:
        digest, expected = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False), file.blob_id
    else:
        return True
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest() == expected
