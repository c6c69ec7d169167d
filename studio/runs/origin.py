"""What a checkpoint was made from, and what has changed since: compared before a run is resumed.

Each checkpoint holds an ``origin.json``: the recipe, fingerprints of data, model and adapter, and the versions of the
packages. It is written with the checkpoint and never changed afterwards.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from studio.jobs.json_file import read_json
from studio.recipe import Recipe
from studio.recipe.methods import WHOLE
from studio.runs.differences import flattened
from studio.runs.resume_rules import chooses_by_measuring, rule_of

FILE = "origin.json"
ANY = "*"  # in ``Resolved.accepted``: everything that may be accepted

Kind = Literal["refused", "ask", "note"]


@dataclass(frozen=True)
class Change:
    """One thing in which a run differs from what its checkpoint was made from.

    Attributes:
        field: the recipe's field, or ``data``, ``model``, ``adapter``, ``versions.NAME``, ``checkpoint``.
        kind: ``refused`` cannot change in the middle of a run, ``ask`` may if a person says so, ``note`` is harmless.
        why: why it is refused, or what it means to go on.
        key: what tells this change from a later one of the same field; empty takes ``now``.
    """

    field: str
    kind: Kind
    before: str
    now: str
    why: str = ""
    key: str = ""

    @property
    def token(self) -> str:
        """What is remembered when a person accepts this very change."""
        return hashlib.sha256((self.key or self.now).encode()).hexdigest()[:16]

    def told(self) -> str:
        """The change as one line."""
        return f"{self.field}: {_short(self.before)} -> {_short(self.now)}. {self.why}".strip()

    def as_event(self) -> dict[str, str]:
        """The change as it stands in an event."""
        return asdict(self)


def recipe_part(recipe: Recipe) -> dict[str, Any]:
    """A recipe as an origin keeps it."""
    return recipe.model_dump(mode="json", exclude={"resolved", "name"})


def read_origin(checkpoint: Path) -> dict[str, Any] | None:
    """The origin of a checkpoint; None of one that an earlier version made, or that cannot be read."""
    return read_json(checkpoint / FILE)


def write_origin(folder: Path, origin: dict[str, Any]) -> None:
    """Write an origin into a checkpoint that is being made."""
    (folder / FILE).write_text(json.dumps(origin, indent=1), encoding="utf-8")


def origin_of_recipe(recipe: Recipe) -> dict[str, Any] | None:
    """What a run's recipe says about a checkpoint that has no origin of its own."""
    resolved = recipe.resolved
    if resolved is None:
        return None
    return {
        "data": {"fingerprint": resolved.data_fingerprint},
        "model": {"revision": resolved.model_revision},
        "versions": resolved.versions,
    }


def changes_since(origin: dict[str, Any], now: dict[str, Any]) -> list[Change]:
    """Everything in which ``now`` differs from an origin; what one of the two does not know is not compared."""
    same_rows = _same(origin, now, "data", "examples")
    same_model = _same(origin, now, "model", "fingerprint")
    found = _recipe_changes(origin.get("recipe"), now["recipe"], same_rows, same_model)
    found += _data_changes(origin.get("data") or {}, now.get("data") or {}, same_rows)
    found += _model_changes(origin, now)
    before, versions = origin.get("versions") or {}, now.get("versions") or {}
    found += [
        Change(f"versions.{name}", "note", before[name], versions[name], "Numbers may differ in their last digits.")
        for name in before
        if name in versions and before[name] != versions[name]
    ]
    return found


def unaccepted(changes: list[Change], accepted: dict[str, str]) -> list[Change]:
    """The changes that a person would have to accept and has not."""
    asked = [change for change in changes if change.kind == "ask"]
    return [] if ANY in accepted else [change for change in asked if accepted.get(change.field) != change.token]


def _recipe_changes(before: Any, now: dict[str, Any], same_rows: bool, same_model: bool) -> list[Change]:
    if not isinstance(before, dict):
        return []
    old, new = flattened(before), flattened(now)
    if old.get("method.kind") != new.get("method.kind"):  # its other fields are others
        old = {name: value for name, value in old.items() if not name.startswith("method.") or name == "method.kind"}
        new = {name: value for name, value in new.items() if not name.startswith("method.") or name == "method.kind"}
    measured = chooses_by_measuring(old) or chooses_by_measuring(new)
    found = []
    for name in dict.fromkeys([*old, *new]):
        if name not in old or name not in new or old[name] == new[name]:
            continue  # a field that one of two versions of the studio does not have is no change
        kind, why = rule_of(name, measured)
        if name.startswith("data.") and kind == "ask" and same_rows:
            kind, why = "note", "The examples are the same."
        if name in ("model.id", "model.revision") and same_model:
            kind, why = "note", "The files are the same."
        if kind != "free":
            found.append(Change(name, kind, _text(old[name]), _text(new[name]), why))
    return found


def _data_changes(before: dict[str, Any], now: dict[str, Any], same_rows: bool) -> list[Change]:
    why = "The rest of the run would train on the new rows; rows of this epoch may be repeated or skipped."
    files = [[file[1], file[3] or file[2]] for file in now.get("sources") or []]
    # what the page has shown are files; without any, only the worker can tell one change from a later one
    key = json.dumps(files or [now.get("fingerprint"), now.get("examples")])
    old, new = before.get("classes"), now.get("classes")
    if old is not None and new is not None and old != new:
        return [Change("data", "refused", ", ".join(old), ", ".join(new), "The classes are the outputs of the model.")]
    for name, title in (("fingerprint", "rows"), ("examples", "encoded examples")):
        old, new = before.get(name), now.get(name)
        if old and new and old != new and not (same_rows and name == "fingerprint"):
            return [Change("data", "ask", _rows(title, old, before), _rows(title, new, now), why, key)]
    if now.get("fingerprint") or "sources" not in before or "sources" not in now:
        return []
    return [
        Change("data", "ask", _file(old), _file(new), why, key)
        for old, new in _pairs(before["sources"], now["sources"])
        if not _same_content(old, new)
    ][:1]


def _model_changes(origin: dict[str, Any], now: dict[str, Any]) -> list[Change]:
    found = []
    whole = now["recipe"]["method"]["kind"] in WHOLE
    for part in ("model", "adapter"):
        before, after = origin.get(part) or {}, now.get(part) or {}
        name = "fingerprint" if before.get("fingerprint") and after.get("fingerprint") else "revision"
        old, new = before.get(name), after.get(name)
        if not old or not new or old == new:
            continue
        if part == "adapter":
            why = "The weights come from the checkpoint, the configuration from the adapter."
            found.append(Change(part, "ask", old, new, why))
        elif whole:
            found.append(Change(part, "note", old, new, "All weights come from the checkpoint."))
        else:
            found.append(Change(part, "refused", old, new, "The checkpoint was trained on other base weights."))
    return found


def _pairs(before: list[Any], now: list[Any]) -> list[tuple[list[Any], list[Any]]]:
    """Files of two readings by their place in the list; a file that one of them lacks stands beside nothing."""
    length = max(len(before), len(now))
    padded = [[*files, *([[]] * (length - len(files)))] for files in (before, now)]
    return list(zip(*padded, strict=True))


def _same_content(one: list[Any], other: list[Any]) -> bool:
    """Whether two files (path, size, time of change, sha256 or None) hold the same, wherever they are."""
    if not one or not other or one[1] != other[1]:
        return one == other
    if one[3] and other[3]:
        return one[3] == other[3]
    return one[2] == other[2]


def _same(origin: dict[str, Any], now: dict[str, Any], part: str, name: str) -> bool:
    old, new = (origin.get(part) or {}).get(name), (now.get(part) or {}).get(name)
    return bool(old) and old == new


def _rows(title: str, digest: str, data: dict[str, Any]) -> str:
    count = f"{data['rows']:,} " if isinstance(data.get("rows"), int) else ""
    return f"{count}{title} {digest[:12]}"


def _file(file: list[Any]) -> str:
    return f"{Path(str(file[0])).name} of {file[1]:,} bytes, {(file[3] or str(file[2]))[:12]}" if file else "no file"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value, ensure_ascii=False)


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."
