"""Models of the Hugging Face Hub, in ``models/hub/<org>--<name>/<commit>/``.

``huggingface_hub`` throws a half file away when a download stops, so the files are fetched here, through its session,
into ``<commit>.part/``, from the byte where they ended; the folder gets its name when every file is complete and its
hash is right. Plain folders and no symbolic links: they can be copied, and work on Windows.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.hub_status import TIMEOUT_SECONDS, endpoint, offline
from studio.jobs.progress import Report, quiet
from studio.models.problems import explain, is_connection_problem, no_network
from studio.models.transfer import Counter, fetch_file
from studio.workspace import Workspace

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
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin", "adapter_model*.safetensors")  # the first that is there


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
        info = None if offline() else info_within(model_id, revision, token, TIMEOUT_SECONDS)
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
            api = HfApi(endpoint=endpoint(), token=token)
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
    counter = Counter(f"Downloading {model_id}", total, progress)
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="download") as pool:
        jobs = [pool.submit(fetch_file, model_id, commit, f, part, token, counter) for f in files]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            counter.stop = True  # the other downloads keep their bytes and end at their next chunk
            pool.shutdown(cancel_futures=True)
            raise


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
