"""Uploaded files: kept in the workspace under safe names, once."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from studio.data.files import kind_of
from studio.errors import StudioError, StudioErrors
from studio.runs import Run
from studio.workspace import Workspace, safe_name

SUITES = "suites/uploads"
_NEEDED = ("queued", "running", "paused", "stopped", "failed", "interrupted")  # they train, or can be resumed


def keep_uploads(paths: list[str], folder: str = "datasets/uploads") -> str:
    """Copy uploaded files into the workspace, under safe names; the same files again are the same copy.

    Args:
        folder: below the workspace; files of prompts are kept apart from datasets (``SUITES``).

    Returns:
        The path of the copy; several files become a folder.

    Raises:
        StudioError: the disk is full or the workspace cannot be written.
    """
    sources = [Path(path) for path in paths]
    digests = [_digest(source) for source in sources]
    uploads = Workspace.current().folder(folder)
    try:
        if len(sources) == 1:
            return str(_copy(sources[0], uploads / _name(sources[0], digests[0])))
        whole = hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
        stem = Path(safe_name(sources[0].name, "data")).stem
        whole_folder = uploads / f"{stem}-and-{len(sources) - 1}-more-{whole[:8]}"
        aside = whole_folder.with_name(f".{whole_folder.name}.{secrets.token_hex(4)}.part")
        if not whole_folder.exists():
            try:
                aside.mkdir()
                for source, digest in zip(sources, digests, strict=True):
                    _copy(source, aside / _name(source, digest))
                aside.rename(whole_folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)  # on a full disk some of the files would stay
        return str(whole_folder)
    except OSError as error:
        raise StudioError(
            f"The file cannot be kept in the workspace: {error.strerror}.", "Free some disk space and try again."
        ) from error


def is_upload(source: str | None) -> bool:
    """Whether a dataset is one that the page has put into the workspace: uploaded, or a cleaned copy."""
    path = Path(source or "/")
    if path.name in ("", ".", ".."):
        return False
    try:
        folders = [folder.resolve() for folder in _folders()]
        return path.exists() and not path.is_symlink() and path.resolve().parent in folders
    except (OSError, ValueError):  # a name that no file can have: too long, or with a null character
        return False


def kept_datasets(chosen: str | None = None) -> list[str]:
    """The uploaded and cleaned datasets. One that could not be read is deleted once it is not chosen any more."""
    found = []
    for folder in _folders():
        for path in sorted(folder.glob("*")) if folder.exists() else []:
            if path.name.startswith("."):
                continue
            if _mark(path).exists() and str(path) != chosen:
                _remove(path)
            else:
                found.append(str(path))
    return found


def mark_unreadable(source: str) -> None:
    """Note that an uploaded dataset cannot be read, so that it does not stay in the list of datasets."""
    _mark(Path(source)).touch()


def delete_upload(source: str | None, runs: Iterable[tuple[Run, str]]) -> None:
    """Delete an uploaded dataset.

    Args:
        runs: all runs with their statuses; those that wait, train or can be resumed keep their data.

    Raises:
        StudioError: it is no upload (code ``not_an_upload``), or a run needs it (``upload_in_use``).
    """
    if not source or not is_upload(source):
        raise StudioError("This dataset was not uploaded here.", "Choose an upload.", code="not_an_upload")
    for run, status in runs:
        if status in _NEEDED and _uses(run, Path(source)):
            raise StudioError(
                f"The run {run.label.name or run.id} needs {Path(source).name}: it is {status}.",
                "Let it finish, or delete the run first.",
                code="upload_in_use",
            )
    _remove(Path(source))


def _uses(run: Run, upload: Path) -> bool:
    """Whether a run reads an upload, or a file in it."""
    upload = upload.resolve()
    for source in filter(None, _sources_of(run)):
        try:
            if Path(source).expanduser().resolve().is_relative_to(upload):
                return True
        except (OSError, ValueError, RuntimeError):  # no name of a file
            continue
    return False


def _sources_of(run: Run) -> list[str]:
    try:
        data = run.recipe.data
    except StudioError:  # a damaged run trains on nothing
        return []
    return [data.source, data.holdout_source or "", *(part.source for part in data.mix)]


def _folders() -> list[Path]:
    return [Workspace.current().datasets / name for name in ("uploads", "cleaned")]


def _mark(path: Path) -> Path:
    return path.with_name(f".{path.name}.unreadable")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    _mark(path).unlink(missing_ok=True)


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
