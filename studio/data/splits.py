"""Which split each file of a folder belongs to, by the names of its files and folders.

The words are those that ``datasets`` knows (https://huggingface.co/docs/datasets/repository_structure), and some more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "devel", "heldout", "held_out", "held-out", "holdout"),
    "test": ("test", "testing", "tests", "eval", "evaluation"),
}
_SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
_WORD = re.compile(rf"(?<![a-z])({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})(?:set|data|split)?(?![a-z])")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
SAVED_DICT = "dataset_dict.json"  # written by datasets.DatasetDict.save_to_disk
SAVED = "state.json"  # written by datasets.Dataset.save_to_disk


@dataclass(frozen=True)
class Taken:
    """Which files of a folder are read, and which are left out because they belong to another split.

    Attributes:
        split: the split that is read.
        files: its files, relative to the folder.
        left_out: the files of the other splits, by split.
    """

    split: str
    files: tuple[str, ...]
    left_out: dict[str, tuple[str, ...]]

    def in_words(self) -> str:
        """What is read and what is left out, in two sentences."""
        if not self.left_out and self.split != "train":
            return f"The only split, {self.split!r}, is read: {_listed(self.files)}."
        if not self.left_out:
            return f"All files of the folder are read: {_listed(self.files)}."
        others = "; ".join(f"{split} ({_listed(files)})" for split, files in self.left_out.items())
        return f"Split {self.split!r} is read: {_listed(self.files)}. Left out: {others}. data.split chooses the split."


def _listed(files: tuple[str, ...]) -> str:
    more = f" and {len(files) - 3:,} more" if len(files) > 3 else ""
    return ", ".join(files[:3]) + more


def split_of(path: Path, folder: Path) -> str | None:
    """Return the split that a file's name says, or else the innermost of its folders; None if none says one.

    A name with the words of two splits says none.
    """
    relative = path.relative_to(folder)
    for name in (relative.name.split(".", 1)[0], *reversed(relative.parent.parts)):
        found = {_SPLIT_OF[word] for word in _WORD.findall(_CAMEL.sub("_", name).lower())}
        if len(found) == 1:
            return found.pop()
    return None


def by_split(files: Iterable[Path], folder: Path) -> dict[str, list[Path]]:
    """Group the files of a folder by split, ``train`` first.

    A file without a split in its name is for training. Files of a single split are all of the data, whatever it is
    called, so a folder with nothing but a test file can be trained on.
    """
    groups: dict[str, list[Path]] = {}
    for path in files:
        groups.setdefault(split_of(path, folder) or "train", []).append(path)
    order = [split for split in WORDS if split in groups]
    return {split: groups[split] for split in order}


def saved_splits(folder: Path) -> list[str] | None:
    """The names of the splits of a saved ``DatasetDict``; None if the folder is none."""
    try:
        names = json.loads((folder / SAVED_DICT).read_text(encoding="utf-8"))["splits"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    plain = isinstance(names, list) and all(isinstance(name, str) and Path(name).name == name for name in names)
    return names if plain else None


def saved_files(folder: Path) -> set[str] | None:
    """The names of the data files of a saved ``Dataset``; None if the folder is none.

    The folder may hold more tables: what ``datasets`` has cached beside them.
    """
    try:
        files = json.loads((folder / SAVED).read_text(encoding="utf-8"))["_data_files"]
        return {str(file["filename"]) for file in files}
    except (OSError, ValueError, KeyError, TypeError):
        return None
