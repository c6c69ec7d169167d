"""What a person says about a run: a name, a note, tags; and which run it was made from."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.jobs.json_file import read_json

FILE = "label.json"
LONGEST_NAME, LONGEST_NOTE, LONGEST_TAG, MOST_TAGS = 80, 4000, 40, 20


@dataclass(frozen=True)
class Label:
    """Kept beside the recipe; the run itself does not depend on it.

    Attributes:
        name: shown instead of the run's id.
        parent: the id of the run that this one repeats or changes.
    """

    name: str = ""
    note: str = ""
    tags: tuple[str, ...] = ()
    parent: str = ""

    @classmethod
    def read(cls, folder: Path) -> Label:
        """The label of a run's folder; an empty one if there is none, or none that can be read."""
        found = read_json(folder / FILE) or {}
        name, note, parent = (found.get(key, "") for key in ("name", "note", "parent"))
        tags = found.get("tags", [])
        if not isinstance(tags, list) or not all(isinstance(word, str) for word in (name, note, parent)):
            return cls()
        cut = [str(tag)[:LONGEST_TAG] for tag in tags[:MOST_TAGS]]
        return cls(name[:LONGEST_NAME], note[:LONGEST_NOTE], tuple(cut), parent)

    def write(self, folder: Path) -> None:
        """Write it aside and rename it into place."""
        aside = folder / f".{FILE}.{os.getpid()}.part"
        aside.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1), encoding="utf-8")
        aside.replace(folder / FILE)

    def changed(self, **words: Any) -> Label:
        """The label with other words; blanks around them and doubled tags are dropped.

        Raises:
            StudioError: a word is too long, or there are too many tags.
        """
        made = replace(self, **words)
        tags = tuple(dict.fromkeys(tag.strip() for tag in made.tags if tag.strip()))
        made = replace(made, name=" ".join(made.name.split()), note=made.note.strip(), tags=tags)
        if len(made.name) > LONGEST_NAME:
            raise StudioError(f"The name has {len(made.name)} characters.", f"Take at most {LONGEST_NAME}.")
        if len(made.note) > LONGEST_NOTE:
            raise StudioError(f"The note has {len(made.note):,} characters.", f"Take at most {LONGEST_NOTE:,}.")
        if len(tags) > MOST_TAGS or any(len(tag) > LONGEST_TAG for tag in tags):
            raise StudioError(
                "There are too many tags, or one is too long.",
                f"Take at most {MOST_TAGS} of at most {LONGEST_TAG} characters.",
            )
        return made
