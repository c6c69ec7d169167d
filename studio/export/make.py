"""One export, from what was asked to what is there: made aside, read back, and only then put in its place."""

from __future__ import annotations

import shutil
import zipfile
from importlib import import_module
from pathlib import Path

from studio.export.kinds import Exported, Options, check, place
from studio.jobs.progress import Report, quiet
from studio.models.problems import disk_problem
from studio.runs import Run

_MODULES = {
    "merged": "merged",
    "adapter": "adapter",
    "gguf": "llama_cpp",
    "ollama": "ollama",
    "snippet": "snippets",
    "script": "script",
}


def export(
    run: Run, kind: str, to: str | Path | None = None, options: Options | None = None, progress: Report = quiet
) -> Exported:
    """Make one export of a run.

    Args:
        kind: one of ``KINDS``.
        to: a file or folder that does not exist yet; None takes a new one in the workspace. The Hub needs none.

    Raises:
        StudioError: it cannot be made of this run, something that it needs is missing, or what was written does not
            say what the run says; nothing is left at ``to`` then.
    """
    options = (options or Options()).check()
    check(run, kind)
    from transformers.utils import logging

    logging.disable_progress_bar()
    if kind == "hub":
        from studio.export.push_to_hub import push

        return push(run, options, progress)
    target = place(run, kind, to, options)
    aside = target.with_name(f".{target.name}.part")
    clear(aside)
    try:
        made = import_module(f"studio.export.{_MODULES[kind]}").write(run, aside, options, progress)
        if target.suffix == ".zip" and aside.is_dir():
            progress("Packing", 0, 0)
            pack(aside, target)
        else:
            aside.rename(target)
    except OSError as error:
        raise disk_problem(error, target) from error
    finally:
        clear(aside)
    return Exported(kind, str(target), made.told, made.code)


def pack(folder: Path, target: Path) -> None:
    """A folder as one ``.zip`` file, below a folder of the file's name; weights do not get smaller and are stored."""
    part = target.with_name(f".{target.name}.zipping")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    small = zipfile.ZIP_STORED if path.suffix == ".safetensors" else zipfile.ZIP_DEFLATED
                    archive.write(path, f"{target.stem}/{path.relative_to(folder).as_posix()}", small)
        with zipfile.ZipFile(part) as archive:
            broken = archive.testzip()
        assert broken is None, f"{broken} did not arrive in the archive"
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)


def clear(path: Path) -> None:
    """Remove a half-made file or folder."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
