"""Fingerprints of what a run is made from: source files, base model, adapter, examples, packages."""

from __future__ import annotations

import array
import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.data import sources
from studio.data.files import identity
from studio.recipe import DataSpec, Recipe
from studio.runs.origin import recipe_part

if TYPE_CHECKING:
    from studio.training.run_data import Rows

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes")
_HASHED_BYTES = 256 << 20  # larger source files are compared by size and time of change, and by their rows
_WHOLE_BYTES = 64 << 20  # a larger file of a model is read in blocks
_BLOCKS, _BLOCK_BYTES = 64, 1 << 16
_OF_MODELS = ("*.json", "*.safetensors", "*.bin", "*.jinja", "*.model", "*.txt")
_NOT_OF_MODELS = ("studio.json",)  # when and from where it was fetched


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide what a run computes."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def source_files(data: DataSpec) -> list[list[Any]]:
    """Each local file of a dataset as [path, size, time of change, sha256 or None if it is large].

    Raises:
        StudioError: a source is not there.
    """
    specs = [(spec, spec.split) for spec in sources.parts(data)]
    paths = [sources.locate(spec, split) for spec, split in specs]
    if data.holdout_source and not data.holdout_source.startswith("builtin/"):
        paths.append(Path(data.holdout_source).expanduser())
    found = []
    for path in paths:
        for name, size, changed in identity(path) if path else []:
            found.append([name, size, changed, _sha256(Path(name)) if size <= _HASHED_BYTES else None])
    return found


def folder_fingerprint(folder: Path) -> str:
    """A digest of a model's or an adapter's files: all of the small ones, and blocks of the large ones.

    Times and paths do not count, so a model that was copied or moved keeps its fingerprint.
    """
    digest = hashlib.sha256()
    files = {path for pattern in _OF_MODELS for path in folder.glob(pattern) if path.is_file()}
    for path in sorted(files, key=lambda each: each.name):
        if path.name in _NOT_OF_MODELS:
            continue
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= _WHOLE_BYTES:
                digest.update(file.read())
                continue
            for block in range(_BLOCKS):
                file.seek((size - _BLOCK_BYTES) * block // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()


def examples_digest(*sides: Iterable[Any] | None) -> str:
    """A digest of what is trained on and measured: token ids, labels and classes, in their order."""
    digest = hashlib.sha256()
    for side in sides:
        digest.update(b"\nside\n")
        for example in side or ():
            digest.update(array.array("q", example.input_ids).tobytes())
            digest.update(array.array("q", example.labels or []).tobytes())
            digest.update(repr(example.label).encode())
    return digest.hexdigest()


def origin_of(recipe: Recipe, base: Path, revision: str | None, adapter: Path | None, rows: Rows) -> dict[str, Any]:
    """What the checkpoints of a run are made from; see :mod:`studio.runs.origin`."""
    return {
        "version": 1,
        "recipe": recipe_part(recipe),
        "data": {
            "fingerprint": rows.fingerprint,
            "examples": examples_digest(rows.examples, rows.held_out),
            "rows": len(rows.examples),
            "held_out_rows": len(rows.held_out or []),
            "classes": list(rows.classes.names) if rows.classes else None,
            "sources": source_files(recipe.data),
        },
        "model": {"place": str(base), "revision": revision, "fingerprint": folder_fingerprint(base)},
        "adapter": {"place": str(adapter), "fingerprint": folder_fingerprint(adapter)} if adapter else None,
        "versions": versions(),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
