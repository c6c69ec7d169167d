"""Uploaded files: kept in the workspace under safe names, once."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from pathlib import Path

from studio.data.files import kind_of
from studio.errors import StudioError, StudioErrors
from studio.workspace import Workspace, safe_name


def keep_uploads(paths: list[str]) -> str:
    """Copy uploaded files into the workspace, under safe names; the same files again are the same copy.

    Returns:
        The path of the copy; several files become a folder.

    Raises:
        StudioError: the disk is full or the workspace cannot be written.
    """
    sources = [Path(path) for path in paths]
    digests = [_digest(source) for source in sources]
    uploads = Workspace.current().folder("datasets/uploads")
    try:
        if len(sources) == 1:
            return str(_copy(sources[0], uploads / _name(sources[0], digests[0])))
        whole = hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
        stem = Path(safe_name(sources[0].name, "data")).stem
        folder = uploads / f"{stem}-and-{len(sources) - 1}-more-{whole[:8]}"
        aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
        if not folder.exists():
            try:
                aside.mkdir()
                for source, digest in zip(sources, digests, strict=True):
                    _copy(source, aside / _name(source, digest))
                aside.rename(folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)  # on a full disk some of the files would stay
        return str(folder)
    except OSError as error:
        raise StudioError(
            f"The file cannot be kept in the workspace: {error.strerror}.", "Free some disk space and try again."
        ) from error


def named(error: StudioError, path: str) -> StudioError:
    """An error about an uploaded file with the file's name instead of its path in Gradio's temporary folder."""
    if isinstance(error, StudioErrors):
        return StudioErrors([named(problem, path) for problem in error.problems])
    name = Path(path).name
    return StudioError(
        error.what.replace(path, name), error.fix.replace(path, name), field=error.field, code=error.code
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _name(source: Path, digest: str) -> str:
    kind, packed = kind_of(source)
    stem = Path(safe_name(source.name, "data")).name.removesuffix(packed).removesuffix(kind)
    return f"{stem}-{digest[:8]}{kind}{packed}"


def _copy(source: Path, target: Path) -> Path:
    if not target.exists():
        aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            shutil.copyfile(source, aside)
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)  # on a full disk half a file would stay
    return target
