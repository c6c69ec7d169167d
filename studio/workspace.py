"""Where models, datasets and runs live. The only place that builds paths inside the workspace."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from studio.errors import StudioError

ASSETS = Path(__file__).resolve().parent.parent / "assets"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


@dataclass(frozen=True)
class Workspace:
    """A folder that holds everything a person makes: ``models``, ``datasets``, ``runs``, ``exports``, ``recipes``,
    ``downloads``.

    Copy the folder and you have copied all of it.
    """

    root: Path

    @classmethod
    def current(cls) -> Workspace:
        """The workspace that ``STUDIO_HOME`` names, or ``./workspace``. Folders are made on first use."""
        return cls(Path(os.environ.get("STUDIO_HOME") or "workspace").expanduser().resolve())

    def folder(self, name: str) -> Path:
        """A folder of the workspace, made if it is missing.

        Raises:
            StudioError: the folder cannot be made (no permission, no space, a file in its place).
        """
        path = self.root / name
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudioError(
                f"The workspace folder {path} cannot be made: {error.strerror}.",
                "Set STUDIO_HOME to a folder you can write to.",
            ) from error
        return path

    @property
    def models(self) -> Path:
        return self.folder("models")

    @property
    def datasets(self) -> Path:
        return self.folder("datasets")

    @property
    def runs(self) -> Path:
        return self.folder("runs")

    @property
    def recipes(self) -> Path:
        return self.folder("recipes")

    @property
    def downloads(self) -> Path:
        """Unfinished downloads and their progress files; safe to delete."""
        return self.folder("downloads")

    @property
    def exports(self) -> Path:
        """What was made of runs to be taken elsewhere, in a folder for each run."""
        return self.folder("exports")

    @property
    def draft(self) -> Path:
        """The form that was changed last, in whichever browser; a new browser starts from it."""
        return self.folder("recipes") / ".draft.yaml"

    @property
    def drafts(self) -> Path:
        """The recipe in the form of each browser, kept between visits."""
        return self.folder("recipes/.drafts")

    @property
    def votes(self) -> Path:
        """The judgements of blind comparisons, one a line."""
        return self.folder("") / "votes.jsonl"

    def run(self, run_id: str) -> Path:
        """The folder of one run (it need not exist).

        Raises:
            StudioError: ``run_id`` is not a plain name (``..``, slashes, empty).
        """
        if not is_run_id(run_id):
            raise StudioError(f"{run_id!r} is not a run's id.", "List the runs with `python app.py runs`.")
        return self.runs / run_id


def is_run_id(text: str) -> bool:
    """Whether a text can be the id of a run: a plain name, not a path."""
    return bool(_NAME.fullmatch(text))


def safe_name(text: str, fallback: str = "file") -> str:
    """``text`` reduced to a name that is safe as one path component: ASCII letters, digits, ``.``, ``_``, ``-``."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text.replace("\\", "/").rsplit("/", 1)[-1]).strip("-._")
    return name[:100] or fallback
