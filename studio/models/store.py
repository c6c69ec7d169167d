"""Where a base model comes from: the built-in one, a folder, a GGUF file, or the Hub; always a folder in the end."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from studio.errors import StudioError
from studio.jobs.progress import Report, quiet, slug
from studio.models import builtin, hub_models
from studio.models.convert import MARK, convert
from studio.models.headers import read_json
from studio.models.problems import disk_problem
from studio.recipe import ModelSpec
from studio.workspace import Workspace, safe_name

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "*.tiktoken")


def fetch(spec: ModelSpec, *, token: str | None = None, progress: Report = quiet) -> Path:
    """Make a model available on this disk and return its folder in transformers' format.

    Returns at once, and without the network, for a local folder and for what was fetched or converted before (a Hub
    model without a fixed commit is asked for a newer one, for three seconds at most).

    Args:
        token: access token for the Hub; None takes ``HF_TOKEN`` or the one of ``hf auth login``.
        progress: called with (what, bytes done, bytes in total).

    Raises:
        StudioError: with what is wrong and how to mend it; half downloads are kept and resumed the next time.
    """
    workspace = Workspace.current()
    kind, path = _place(spec.id)
    if kind == "folder":
        return check_folder(path)
    have = _at_hand(spec, kind, path, workspace)
    if have and (kind != "hub" or have.name == spec.revision):
        return have
    with _Lock(spec.id, workspace, progress):
        if kind == "builtin":
            return builtin.fetch_builtin(spec.id, token, progress, workspace)
        if kind == "gguf":
            return _converted(path, workspace) or _convert_gguf(path, workspace, progress)
        folder = hub_models.download(
            spec.id,
            spec.revision,
            code=spec.trust_remote_code,
            token=token,
            progress=progress,
            workspace=workspace,
        )
        return check_folder(folder)


def is_local(spec: ModelSpec) -> bool:
    """Whether :func:`fetch` would find the model on this disk. Cheap; never asks the network."""
    try:
        kind, path = _place(spec.id)
    except StudioError:
        return False
    return kind in ("folder", "gguf") or _at_hand(spec, kind, path, Workspace.current()) is not None


def local_folder(spec: ModelSpec) -> Path | None:
    """The folder of a model that is ready on this disk, or None: a look without fetching or converting."""
    kind, path = _place(spec.id)
    return path if kind == "folder" else _at_hand(spec, kind, path, Workspace.current())


def revision_of(folder: Path) -> str | None:
    """What exactly a fetched folder holds: the Hub's commit, or the sha256 of the file it was converted from."""
    mark = read_mark(folder)
    if mark.get("revision"):
        return mark["revision"]
    return folder.name if len(folder.name) == 40 and folder.parent.parent.name == "hub" else None


def read_mark(folder: Path) -> dict:
    """``studio.json`` of a model that was fetched or converted here; empty for other folders."""
    mark = read_json(folder / MARK, missing={}, broken={})
    return mark if isinstance(mark, dict) else {}


def check_folder(folder: Path) -> Path:
    """``folder`` itself, if it holds a model in transformers' format.

    Raises:
        StudioError: what is missing.
    """
    names = {p.name for p in folder.iterdir() if p.is_file()}
    where = f"The model folder {folder}"
    if "config.json" not in names:
        if "adapter_config.json" in names:
            raise StudioError(f"{where} holds an adapter, not a base model.", "Choose the base model.", "model.id")
        ggufs = sorted(n for n in names if n.endswith(".gguf"))
        fix = f"Give the path of {ggufs[0]} itself." if ggufs else "Choose a folder that save_pretrained wrote."
        raise StudioError(f"{where} has no config.json.", fix, field="model.id")
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        missing = sorted(_shards(folder / index) - names) if index in names else []
        if missing:
            raise StudioError(
                f"{where} lacks {len(missing)} weight files, the first is {missing[0]}.",
                "Copy the missing files into it.",
                field="model.id",
            )
    if not any(n.endswith(".safetensors") or (n.startswith("pytorch_model") and n.endswith(".bin")) for n in names):
        raise StudioError(f"{where} has no weights.", "It needs .safetensors files beside config.json.", "model.id")
    if not any(list(folder.glob(pattern)) for pattern in TOKENIZER_FILES):
        raise StudioError(f"{where} has no tokenizer.", "Copy tokenizer.json into it.", field="model.id")
    return folder


def _shards(index: Path) -> set[str]:
    try:
        return set(read_json(index, missing={}, most_bytes=64 << 20)["weight_map"].values())
    except (KeyError, TypeError, AttributeError) as error:
        raise StudioError(f"{index} is not a weight index.", "Copy the file again.", field="model.id") from error


def _place(model_id: str) -> tuple[str, Path]:
    """``builtin``, ``folder``, ``gguf`` or ``hub``, and the path where it is one.

    Raises:
        StudioError: an unknown built-in name, a path that does not exist, an id that cannot be one.
    """
    if model_id.startswith("builtin/"):
        if model_id not in builtin.MODELS:
            known = " and ".join(builtin.MODELS)
            raise StudioError(f"There is no model {model_id}.", f"The built-in ones are {known}.", "model.id")
        return "builtin", Path()
    path = Path(model_id).expanduser()
    try:
        if path.is_dir():
            return "folder", path.resolve()
        if path.is_file():
            if path.suffix.lower() == ".gguf":
                return "gguf", path.resolve()
            raise StudioError(f"{path} is not a model.", "Give its folder, or a .gguf file.", field="model.id")
    except (OSError, ValueError) as error:  # a name that no file can have
        raise StudioError(f"{model_id!r} is not a model.", "Write owner/name, or a path.", "model.id") from error
    if path.suffix.lower() == ".gguf":
        raise StudioError(f"There is no file {path}.", "Check the path for a typing error.", field="model.id")
    hub_models.check_id(model_id)
    return "hub", Path()


def _at_hand(spec: ModelSpec, kind: str, path: Path, workspace: Workspace) -> Path | None:
    if kind == "builtin":
        folder = builtin.folder(spec.id, workspace)
        return folder if (folder / MARK).exists() else None
    if kind == "gguf":
        return _converted(path, workspace)
    folder = hub_models.cached(spec.id, spec.revision, workspace)
    return None if folder and spec.trust_remote_code and not (folder / ".code").exists() else folder


def _converted(path: Path, workspace: Workspace) -> Path | None:
    """The folder that was made of this very file (same path, size and time of change), without hashing it again."""
    stat = path.stat()
    for folder in workspace.models.glob(f"gguf--{_stem(path)}--*"):
        mark = read_mark(folder)
        if (mark.get("source"), mark.get("size"), mark.get("changed")) == (str(path), stat.st_size, stat.st_mtime_ns):
            return folder
    return None


def _convert_gguf(path: Path, workspace: Workspace, progress: Report) -> Path:
    progress(f"Reading {path.name}", 0, path.stat().st_size)
    try:
        sha256 = _sha256(path, progress)
        target = workspace.models / f"gguf--{_stem(path)}--{sha256[:12]}"
        stat = path.stat()
        mark = {"id": str(path), "source": str(path), "size": stat.st_size, "changed": stat.st_mtime_ns}
        mark["revision"] = f"sha256:{sha256}"
        if read_mark(target):  # the same content under another name or time
            (target / MARK).write_text(json.dumps(mark, indent=1), encoding="utf-8")
            return target
        aside = Path(tempfile.mkdtemp(prefix="gguf-", dir=workspace.downloads))
        try:
            progress(f"Converting {path.name}, once", 0, 0)
            convert(path, aside / "model")
            (aside / "model" / MARK).write_text(json.dumps(mark, indent=1), encoding="utf-8")
            (aside / "model").rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise disk_problem(error, path if error.filename == str(path) else workspace.root) from error
    return target


def _stem(path: Path) -> str:
    return safe_name(path.stem)[:60]


def _sha256(path: Path, progress: Report) -> str:
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 24):
            digest.update(chunk)
            done += len(chunk)
            progress(f"Reading {path.name}", done, total)
    return digest.hexdigest()


class _Lock:
    """One download of a model at a time on this disk; the operating system frees it when its process ends."""

    def __init__(self, model_id: str, workspace: Workspace, progress: Report):
        from filelock import FileLock

        self._lock = FileLock(workspace.downloads / f"{slug(model_id)}.lock")
        self._wait = f"Waiting for another download of {model_id}"
        self._progress = progress

    def __enter__(self) -> None:
        from filelock import Timeout

        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            self._progress(self._wait, 0, 0)
            self._lock.acquire(poll_interval=0.2)

    def __exit__(self, *_: object) -> None:
        self._lock.release()
