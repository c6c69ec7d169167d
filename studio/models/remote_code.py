"""Python code that comes with a model (``trust_remote_code``): which files would run, and whether a person allowed it.

A recipe can ask for such code; it cannot allow it. A person allows it on the page or on the command line, for one model
at one revision, after the files have been listed. The permission is kept in the workspace with the sha256 of each file,
so that changed files are asked about again. Everything that loads a tokenizer or a model asks :func:`may_run`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.folders import files_below
from studio.models.headers import read_json
from studio.recipe import ModelSpec
from studio.workspace import Workspace

SWITCH = "STUDIO_TRUST_REMOTE_CODE"
"""Environment variable: ``never`` refuses every model's code, ``ask`` lets a person allow it. The default is ``ask``,
and ``never`` on a Hugging Face Space."""
FIELD = "model.trust_remote_code"
_MOST_FILES = 200
_MOST_BYTES = 20_000_000  # of all files together; they are listed for a person to look at


@dataclass(frozen=True)
class CodeFile:
    """A Python file that comes with a model: its path in the model's folder, its size in bytes, its sha256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class RemoteCode:
    """What would run if a model's code were allowed.

    Attributes:
        entries: what the model's JSON files name as entry points (``AutoModelForCausalLM: modeling_x.XForCausalLM``).
        files: every Python file of the folder; an entry point may import any of them.
    """

    entries: tuple[str, ...]
    files: tuple[CodeFile, ...]

    @property
    def digest(self) -> str:
        """A sha256 over entry points and files; it changes when any of them does."""
        listed = [list(self.entries), [asdict(file) for file in self.files]]
        return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()


def is_forbidden() -> bool:
    """Whether code of models is off entirely on this machine."""
    chosen = os.environ.get(SWITCH, "").strip().lower()
    return chosen == "never" or (chosen != "ask" and bool(os.environ.get("SPACE_ID")))


def find_code(folder: Path) -> RemoteCode | None:
    """The code that a model's folder brings, or None if its JSON files name no entry point.

    Raises:
        StudioError: there are more files than a person could look at, or the code is in another repository.
    """
    entries = _entries(folder)
    if (folder / "custom_generate" / "generate.py").is_file():
        entries.append("generate: custom_generate/generate.py")
    if not entries:
        return None
    elsewhere = next((entry for entry in entries if "--" in entry), None)
    if elsewhere:
        raise StudioError(
            f"The code of {folder.name} is in another repository ({elsewhere[:200]}).",
            "Its files cannot be listed here, so it cannot be allowed. Choose another model.",
            field=FIELD,
            code="remote_code_elsewhere",
        )
    paths = sorted(path for path in files_below(folder, "model.id") if path.suffix == ".py")
    if len(paths) > _MOST_FILES or sum(path.stat().st_size for path in paths) > _MOST_BYTES:
        raise StudioError(
            f"{folder} holds {len(paths)} Python files.",
            f"At most {_MOST_FILES} files of {_MOST_BYTES // 1_000_000} MB together can be looked through and allowed.",
            field=FIELD,
            code="remote_code_too_large",
        )
    files = [_code_file(path, folder) for path in paths]
    return RemoteCode(tuple(sorted(entries)), tuple(files))


def may_run(folder: Path, wanted: bool, *, copied: bool = False) -> bool:
    """Whether transformers may run the code in ``folder``: the value for its ``trust_remote_code``.

    Args:
        wanted: whether the recipe asks for it (``model.trust_remote_code``).
        copied: ``folder`` was written by the studio from a model that was allowed (an export): the same files are
            allowed there, too. Folders of runs are known to be copies.

    Raises:
        StudioError: the model brings code, the recipe asks for it, and nobody has allowed these very files.
    """
    if not wanted:
        return False
    code = find_code(folder)
    if code is None:
        return False
    if is_forbidden():
        raise forbidden()
    if not _is_allowed(folder, code, copied or folder.resolve().is_relative_to(Workspace.current().runs.resolve())):
        listed = ", ".join(f"{file.path} (sha256 {file.sha256[:12]})" for file in code.files[:5])
        raise StudioError(
            f"The model in {folder} brings Python code, and nobody has allowed these files to run: {listed}.",
            "Such code can do anything on this machine. Look at the files, then allow them in the Model tab, with "
            "--trust-remote-code, or with `python app.py trust MODEL`.",
            field=FIELD,
            code="remote_code_not_allowed",
        )
    return True


def needs_permission(folder: Path, wanted: bool) -> RemoteCode | None:
    """The code that a person would have to allow before this model can be used as the recipe asks; None if none.

    Raises:
        StudioError: as :func:`find_code`.
    """
    code = find_code(folder) if wanted else None
    return code if code and not _is_allowed(folder, code, copied=False) else None


def allow(spec: ModelSpec, folder: Path, digest: str) -> RemoteCode:
    """Record that a person allows the code of this model at this revision to run.

    Args:
        digest: that of the code that the person was shown.

    Raises:
        StudioError: it is forbidden on this machine, the model brings no code, or its files are not the ones shown.
    """
    if is_forbidden():
        raise forbidden()
    code = find_code(folder)
    if code is None:
        raise StudioError(f"{spec.id} brings no code.", "There is nothing to allow.", field=FIELD)
    if code.digest != digest:
        raise StudioError(
            f"The files of {spec.id} have changed since they were listed.",
            "Look at them again, then allow them.",
            field=FIELD,
            code="remote_code_changed",
        )
    kept = [grant for grant in _grants() if grant["folder"] != str(folder.resolve())]
    kept.append(
        {
            "model": spec.id,
            "revision": spec.revision,
            "folder": str(folder.resolve()),
            "digest": digest,
            "files": [asdict(file) for file in code.files],
            "allowed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
    )
    _write(kept)
    return code


def withdraw(folder: Path) -> bool:
    """Forget the permission for a model's folder; returns whether there was one."""
    grants = _grants()
    kept = [grant for grant in grants if grant["folder"] != str(folder.resolve())]
    if len(kept) < len(grants):
        _write(kept)
    return len(kept) < len(grants)


def forbidden() -> StudioError:
    """The refusal where code of models is switched off."""
    return StudioError(
        "Python code that comes with a model is switched off on this machine.",
        f"Choose a model without code of its own; whoever runs the studio can set {SWITCH}=ask.",
        field=FIELD,
        code="remote_code_forbidden",
    )


def _entries(folder: Path) -> list[str]:
    found = []
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith(".index.json") or path.name in ("tokenizer.json", "vocab.json"):
            continue
        value = read_json(path, missing={})
        found += _auto_map(value.get("auto_map")) if isinstance(value, dict) else []
    return found


def _auto_map(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{name}: {item}" for name, item in value.items()]
    return [f"AutoTokenizer: {value}"] if value else []


def _code_file(path: Path, folder: Path) -> CodeFile:
    content = path.read_bytes()
    return CodeFile(path.relative_to(folder).as_posix(), len(content), hashlib.sha256(content).hexdigest())


def _is_allowed(folder: Path, code: RemoteCode, copied: bool) -> bool:
    place = str(folder.resolve())
    for grant in _grants():
        if grant["folder"] == place and grant["digest"] == code.digest:
            return True
        known = {file["sha256"] for file in grant["files"]}
        if copied and all(file.sha256 in known for file in code.files):
            return True
    return False


def _path() -> Path:
    return Workspace.current().root / "allowed-code.json"


def _grants() -> list[dict[str, Any]]:
    """The permissions; what cannot be read allows nothing."""
    grants = read_json(_path(), missing=[], broken=[])
    keys = {"folder", "digest", "files"}
    return [grant for grant in grants if isinstance(grant, dict) and keys <= set(grant)]


def _write(grants: list[dict[str, Any]]) -> None:
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    aside.write_text(json.dumps(grants, indent=1), encoding="utf-8")
    aside.replace(path)
