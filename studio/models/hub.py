"""Models of the Hugging Face Hub, in ``models/hub/<org>--<name>/<commit>/``.

``huggingface_hub`` throws a half file away when a download stops, so the files are fetched here one by one into
``<commit>.part/`` with its own ``http_get``, which can go on from a byte; the folder gets its name when every file is
complete and its hash is right. Plain folders and no symbolic links: they can be copied, and work on Windows.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.models.problems import explain, is_connection_problem, no_network
from studio.models.progress import Report, quiet
from studio.workspace import Workspace

ANSWER_SECONDS = 3.0  # a Hub that is silent for longer counts as not there
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?")

KEPT = (
    "*.json",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "merges.txt",
    "vocab.txt",
    "README.md",
    "LICENSE*",
    "additional_chat_templates/*.jinja",
)
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")  # the first kind that the repository has


def offline() -> bool:
    """Whether the user asked for no network (``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE``)."""
    values = (os.environ.get("HF_HUB_OFFLINE", ""), os.environ.get("TRANSFORMERS_OFFLINE", ""))
    return any(v.upper() in ("1", "ON", "YES", "TRUE") for v in values)


def check_id(model_id: str) -> None:
    """Refuse what cannot be a Hub id.

    Raises:
        StudioError: it looks like a path (which then does not exist), or has characters that no id has.
    """
    looks_like_a_path = model_id.startswith((".", "/", "~")) or "\\" in model_id or model_id.count("/") > 1
    if looks_like_a_path:
        raise StudioError(
            f"There is no folder or .gguf file at {model_id}.", "Check the path for a typing error.", field="model.id"
        )
    if not _ID.fullmatch(model_id) or ".." in model_id or "--" in model_id or len(model_id) > 96:
        raise StudioError(
            f"{model_id!r} is neither a model's id nor a path that exists.",
            "Write owner/name as on the model's page, builtin/NAME, or the path of a folder or .gguf file.",
            field="model.id",
        )


def cached(model_id: str, revision: str | None, workspace: Workspace | None = None) -> Path | None:
    """The complete snapshot on this disk of a revision (None: of the main branch, as last seen), or None."""
    home = _home(model_id, workspace or Workspace.current())
    commit = revision if revision and _COMMIT.fullmatch(revision) else _refs(home).get(revision or "main")
    folder = home / commit if commit else None
    return folder if folder and folder.is_dir() else None


def download(
    model_id: str,
    revision: str | None = None,
    *,
    code: bool = False,
    token: str | None = None,
    progress: Report = quiet,
    workspace: Workspace | None = None,
) -> Path:
    """A model's snapshot; only files that are missing are fetched, and half files from where they stopped.

    Args:
        code: fetch the repository's Python files too (for ``trust_remote_code``).
        token: access token; None takes ``HF_TOKEN`` or the one of ``hf auth login``. It is neither stored nor logged.

    Raises:
        StudioError: wrong id or revision, gated, no network and nothing on the disk, disk full, broken connection.
    """
    workspace = workspace or Workspace.current()
    check_id(model_id)
    have = cached(model_id, revision, workspace)
    if have and revision and _COMMIT.fullmatch(revision) and (not code or (have / ".code").exists()):
        return have  # a commit never changes
    try:
        info = None if offline() else info_within(model_id, revision, token, ANSWER_SECONDS)
    except Exception as error:
        if have and is_connection_problem(error):
            info = None
        else:
            raise explain(error, model_id, revision) from error
    if info is None:
        if have:
            if not offline():
                progress("The Hugging Face Hub does not answer; the copy on this disk is used.", 0, 0)
            return have
        if offline():
            raise StudioError(
                f"{model_id} is not on this disk, and HF_HUB_OFFLINE forbids downloads.",
                "Unset HF_HUB_OFFLINE, or use builtin/smollm2-135m-instruct or a local folder.",
                field="model.id",
            )
        raise no_network(model_id)
    return _snapshot(model_id, revision, info, code, token, progress, workspace)


def info_within(model_id: str, revision: str | None, token: str | None, seconds: float) -> Any | None:
    """The Hub's ``ModelInfo`` with files and sizes, or None if it takes longer than so many seconds in all.

    Name look-up, connecting and reading have no common time limit in HTTP clients, so a thread is left behind.
    """
    from huggingface_hub import HfApi

    answer: dict[str, Any] = {}

    def ask() -> None:
        try:
            api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)
            answer["info"] = api.model_info(model_id, revision=revision, files_metadata=True, timeout=seconds)
        except Exception as error:  # noqa: BLE001  handed to the caller's thread
            answer["error"] = error

    thread = threading.Thread(target=ask, daemon=True, name="ask-the-hub")
    thread.start()
    thread.join(seconds)
    if "error" in answer:
        raise answer["error"]
    return answer.get("info")


def wanted_files(siblings: list, code: bool) -> list:
    """Those of a repository's files that loading the model needs: safetensors, or else ``.bin``."""
    names = {s.rfilename: s for s in siblings}
    keep = [n for n in names if any(fnmatch.fnmatch(n, k) for k in KEPT) and _is_flat(n)]
    for kind in WEIGHTS:
        weights = [n for n in names if fnmatch.fnmatch(n, kind) and "/" not in n]
        if weights:
            keep += weights
            break
    other = "pytorch_model.bin.index.json" if weights and kind == WEIGHTS[0] else "model.safetensors.index.json"
    keep = [n for n in keep if n != other]
    if code:
        keep += [n for n in names if n.endswith(".py")]
    return [names[n] for n in dict.fromkeys(keep)]


def _is_flat(name: str) -> bool:
    return "/" not in name or name.startswith("additional_chat_templates/")


def _snapshot(model_id, revision, info, code, token, progress: Report, workspace: Workspace) -> Path:
    home = _home(model_id, workspace)
    folder = home / info.sha
    files = wanted_files(info.siblings or [], code)
    if not any(fnmatch.fnmatch(f.rfilename, kind) for f in files for kind in WEIGHTS):
        raise StudioError(
            f"{model_id} has no weights in safetensors or .bin format.",
            "Choose another model; for a repository of GGUF files, download one file and give its path.",
            field="model.id",
        )
    try:
        home.mkdir(parents=True, exist_ok=True)
        part = home / f"{info.sha}.part"
        if folder.is_dir() and not all((folder / f.rfilename).exists() for f in files):
            folder.rename(part)  # complete without the code files that are wanted now
        if not folder.is_dir():
            part.mkdir(exist_ok=True)
            _fetch_files(model_id, info.sha, files, part, token, progress)
            if code:
                (part / ".code").touch()
            part.rename(folder)
        _note_ref(home, revision or "main", info.sha)
    except StudioError:
        raise
    except Exception as error:
        raise explain(error, model_id, revision) from error
    return folder


def _fetch_files(model_id: str, commit: str, files: list, part: Path, token: str | None, progress: Report) -> None:
    total = sum(f.size or 0 for f in files)
    counter = _Counter(f"Downloading {model_id}", total, progress)
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="download") as pool:
        jobs = [pool.submit(_fetch_file, model_id, commit, f, part, token, counter) for f in files]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            counter.stop = True  # the other downloads keep their bytes and end at their next chunk
            pool.shutdown(cancel_futures=True)
            raise


def _fetch_file(model_id: str, commit: str, file, part: Path, token: str | None, counter: _Counter) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
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
    url = hf_hub_url(model_id, file.rfilename, revision=commit, endpoint=os.environ.get("HF_ENDPOINT") or None)
    headers = build_hf_headers(token=token) | {"Accept-Encoding": "identity"}
    with _Watched(half, counter) as stream:
        stream.seek(resume)
        http_get(url, stream, resume_size=resume, headers=headers, expected_size=file.size, tqdm_class=_no_bar())
    if not _hash_is_right(half, file):
        half.unlink()
        raise StudioError(
            f"{file.rfilename} of {model_id} arrived damaged.", "Start again; only this file is fetched anew."
        )
    half.replace(target)


class _Counter:
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


class _Watched(io.FileIO):
    """A file open for writing that counts; unbuffered, so that a killed process leaves all it got on the disk."""

    def __init__(self, path: Path, counter: _Counter):
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


def _no_bar() -> type:
    from huggingface_hub.utils import tqdm

    class NoBar(tqdm):
        def __init__(self, *positional, **named):
            super().__init__(*positional, **(named | {"disable": True}))

    return NoBar


def _hash_is_right(path: Path, file) -> bool:
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


def _home(model_id: str, workspace: Workspace) -> Path:
    return workspace.models / "hub" / model_id.replace("/", "--")


def _refs(home: Path) -> dict[str, str]:
    try:
        return json.loads((home / "refs.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _note_ref(home: Path, revision: str, commit: str) -> None:
    aside = home / f"refs.json.{os.getpid()}.part"
    aside.write_text(json.dumps(_refs(home) | {revision: commit}, indent=1), encoding="utf-8")
    aside.replace(home / "refs.json")
