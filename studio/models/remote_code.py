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
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.folders import files_below
from studio.models.headers import read_json
from studio.recipe import ModelSpec
from studio.workspace import Workspace

SWITCH = "STUDIO_TRUST_REMOTE_CODE"
"""Environment variable: ``ask`` lets a person allow a model's code, any other value refuses every model's code. Not
set it is ``ask``, and ``never`` on a Hugging Face Space."""
FIELD = "model.trust_remote_code"
_NAMING = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
    "generation_config.json",
)
"""The files in which transformers looks for entry points (``auto_map``)."""
_GENERATE = "custom_generate/generate.py"  # transformers runs it for a model's generate()
_MOST_ENTRIES = 50
_LONGEST_ENTRY = 200  # characters
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
        entries: what the model's JSON files name as entry points (``AutoModelForCausalLM: modeling_x.XForCausalLM``),
            each once. The file of each is one of ``files``.
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
    return chosen != "ask" if chosen else bool(os.environ.get("SPACE_ID"))


def find_code(folder: Path, *, copied: bool = False) -> RemoteCode | None:
    """The code that a model's folder brings, or None if its JSON files name no entry point.

    Args:
        copied: transformers has written the folder. It keeps all entry points, but copies only the files that it has
            used; a missing file is no reason to refuse it then.

    Raises:
        StudioError: there are more files or entry points than a person could look at (``remote_code_too_large``), or
            the file of an entry point is not among the files of the folder (``remote_code_elsewhere``).
    """
    entries = _entries(folder)
    if not entries:
        return None
    if len(entries) > _MOST_ENTRIES or any(len(entry) > _LONGEST_ENTRY for entry in entries):
        raise StudioError(
            f"{folder} names {len(entries)} entry points of Python code.",
            f"At most {_MOST_ENTRIES} of {_LONGEST_ENTRY} characters each can be looked through and allowed.",
            field=FIELD,
            code="remote_code_too_large",
        )
    paths = sorted(path for path in files_below(folder, "model.id") if path.suffix == ".py")
    if len(paths) > _MOST_FILES or sum(path.stat().st_size for path in paths) > _MOST_BYTES:
        raise StudioError(
            f"{folder} holds {len(paths)} Python files.",
            f"At most {_MOST_FILES} files of {_MOST_BYTES // 1_000_000} MB together can be looked through and allowed.",
            field=FIELD,
            code="remote_code_too_large",
        )
    listed = {path.relative_to(folder).as_posix() for path in paths}
    for entry in entries:
        module = _module(entry)
        missing = copied and not os.path.lexists(folder / module) and _is_inside(folder / module, folder)
        if not missing and not (module in listed and _is_inside(folder / module, folder)):
            raise _elsewhere(folder, entry)
    if not paths and not copied:
        raise _elsewhere(folder, entries[0])
    return RemoteCode(tuple(entries), tuple(_code_file(path, folder) for path in paths))


def may_run(folder: Path, wanted: bool, *, copied: bool = False) -> bool:
    """Whether transformers may run the code in ``folder``: the value for its ``trust_remote_code``.

    Args:
        wanted: whether the recipe asks for it (``model.trust_remote_code``).
        copied: ``folder`` was written by the studio from a model that was allowed (an export): files and entry points
            that are all part of one permission are allowed there, too. Folders of runs are known to be copies.

    Raises:
        StudioError: the model brings code, the recipe asks for it, and nobody has allowed these very files.
    """
    if not wanted:
        return False
    copied = copied or folder.resolve().is_relative_to(Workspace.current().runs.resolve())
    code = find_code(folder, copied=copied)
    if code is None or (copied and not code.files):  # nothing is there that could run
        return False
    if is_forbidden():
        raise forbidden()
    if not _is_allowed(folder, code, copied):
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
            "entries": list(code.entries),
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


def forget_entry_points(folder: Path) -> None:
    """Take the entry points out of a copy of a model, for a program that would run them without asking."""
    for path in _naming_files(folder):
        value = read_json(path, missing=None)
        if value is not None and any(True for _ in _auto_maps(value)):
            path.write_text(json.dumps(_without_auto_maps(value), indent=2), encoding="utf-8")


def _elsewhere(folder: Path, entry: str) -> StudioError:
    return StudioError(
        f"The code of {folder.name} is not in its folder ({entry[:_LONGEST_ENTRY]}).",
        "Its files cannot be listed here, so it cannot be allowed. Choose another model.",
        field=FIELD,
        code="remote_code_elsewhere",
    )


def _entries(folder: Path) -> list[str]:
    """The entry points that transformers would find, sorted, each once."""
    found = {
        f"{name}: {reference}"
        for path in _naming_files(folder)
        for auto_map in _auto_maps(read_json(path, missing={}))
        for name, value in (auto_map if isinstance(auto_map, dict) else {"AutoTokenizer": auto_map}).items()
        for reference in _references(value)
    }
    if os.path.lexists(folder / _GENERATE):
        found.add(f"generate: {_GENERATE}")
    return sorted(found)


def _naming_files(folder: Path) -> list[Path]:
    """The JSON files that may name entry points: transformers may take another file in place of config.json."""
    config = read_json(folder / "config.json", missing={})
    others = config.get("configuration_files") if isinstance(config, dict) else None
    others = [name for name in others if isinstance(name, str)] if isinstance(others, list) else []
    for name in others:
        if Path(name).name != name or (folder / name).is_symlink():
            raise _elsewhere(folder, name)
    return [folder / name for name in dict.fromkeys((*_NAMING, *others))]


def _auto_maps(value: Any) -> Iterator[Any]:
    """Each ``auto_map`` in a configuration; parts of a model have configurations of their own in it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "auto_map":
                yield inner
            else:
                yield from _auto_maps(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _auto_maps(inner)


def _without_auto_maps(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_auto_maps(inner) for key, inner in value.items() if key != "auto_map"}
    return [_without_auto_maps(inner) for inner in value] if isinstance(value, list) else value


def _references(value: Any) -> Iterator[str]:
    """The classes that one value of an ``auto_map`` names: a text, several of them, or several by their names."""
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _references(inner)
    elif value is not None:
        yield str(value)


def _module(entry: str) -> str:
    """The file that an entry point runs, as transformers derives it: a path relative to the model's folder."""
    reference = entry.partition(": ")[2]
    return reference if entry == f"generate: {_GENERATE}" else f"{reference.rpartition('.')[0]}.py"


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a file is in a folder when all links are followed. Files of the Hub's cache are links to its blobs."""
    try:
        real, home = path.resolve(), folder.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a name that no file can have
        return False
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else None
    return real.is_relative_to(home) or (blobs is not None and real.parent == blobs)


def _code_file(path: Path, folder: Path) -> CodeFile:
    content = path.read_bytes()
    return CodeFile(path.relative_to(folder).as_posix(), len(content), hashlib.sha256(content).hexdigest())


def _is_allowed(folder: Path, code: RemoteCode, copied: bool) -> bool:
    place = str(folder.resolve())
    for grant in _grants():
        if grant["folder"] == place and grant["digest"] == code.digest:
            return True
        if copied and _is_part(code, grant):
            return True
    return False


def _is_part(code: RemoteCode, grant: dict[str, Any]) -> bool:
    """Whether files and entry points of a copy are all among those of one permission. transformers puts the files that
    it copies into one folder, so only their names are compared, not their folders."""
    known = {(Path(file["path"]).name, file["sha256"]) for file in grant["files"]}
    named = {_flat(entry) for entry in grant.get("entries", [])}
    return (
        bool(code.files)
        and all((Path(file.path).name, file.sha256) in known for file in code.files)
        and all(_flat(entry) in named for entry in code.entries)
    )


def _flat(entry: str) -> tuple[str, str]:
    """An entry point without the folder of its module."""
    name, _, reference = entry.partition(": ")
    return name, reference.rpartition("/")[2]


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
