"""The classes that texts are put into: found in the training rows, and numbered the same way everywhere."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from studio.errors import StudioError
from studio.recipe import DataSpec
from studio.workspace import Workspace

Label = str | list[str]
FILE = "classes.json"  # beside the weights of a tuned model


@dataclass(frozen=True)
class Classes:
    """What there is to tell apart.

    Attributes:
        names: the classes in the order of their numbers: as numbers if all of them are, otherwise by the alphabet.
        multi_label: whether a text may belong to several classes, or to none.
        commonest: the class, or the set of classes, that most training rows have; what a baseline would always say.
        rows: how many training rows have each class.
    """

    names: tuple[str, ...]
    multi_label: bool = False
    commonest: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()

    @cached_property
    def _known(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def numbers(self, label: Label) -> int | list[int] | None:
        """The number of a row's class, ascending numbers if there may be several; None if one is not known."""
        names = [label] if isinstance(label, str) else label
        if any(name not in self._known for name in names) or (not self.multi_label and len(names) != 1):
            return None
        numbers = sorted(self._known[name] for name in names)
        return numbers if self.multi_label else numbers[0]

    def named(self, numbers: int | Iterable[int]) -> Label:
        """A class, or a list of classes, by name."""
        return self.names[numbers] if isinstance(numbers, int) else [self.names[number] for number in numbers]

    def unknown(self, label: Label) -> str:
        """Why a row with this label cannot be used."""
        names = [name for name in ([label] if isinstance(label, str) else label) if name not in self.names]
        return f"no training row has its class {names[0][:40]!r}" if names else "it has several classes"

    def save(self, path: Path) -> None:
        """Write them as JSON, by writing aside and renaming."""
        aside = path.with_name(f"{path.name}.{os.getpid()}.part")
        aside.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1), encoding="utf-8")
        aside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Classes:
        """What :meth:`save` wrote.

        Raises:
            StudioError: the file is missing or broken.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{key: value if key == "multi_label" else tuple(value) for key, value in values.items()})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise StudioError(f"The classes of the model cannot be read from {path}.", "Train it again.") from error


def find_classes(labels: Iterable[Label]) -> Classes:
    """The classes that these labels name.

    Raises:
        StudioError: fewer than two, so that there is nothing to tell apart.
    """
    sets: Counter[tuple[str, ...]] = Counter()
    several = False
    for label in labels:
        several |= not isinstance(label, str)
        sets[(label,) if isinstance(label, str) else tuple(sorted(label))] += 1
    rows: Counter[str] = Counter()
    for names, count in sets.items():
        rows.update(dict.fromkeys(names, count))
    if len(rows) < 2:
        found = f"only one class ({next(iter(rows))!r})" if rows else "no class"
        raise StudioError(
            f"The training rows have {found}, and there is nothing to tell apart.",
            "Take data with at least two classes, or name another column in data.columns.label.",
            field="data.columns",
        )
    names = sorted(rows, key=lambda name: (int(name), name)) if all(map(_is_number, rows)) else sorted(rows)
    most = max(sets.values())
    commonest = min(names for names, count in sets.items() if count == most)
    return Classes(tuple(names), several, commonest, tuple(rows[name] for name in names))


def _is_number(name: str) -> bool:
    return name.removeprefix("-").isdecimal() and name.isascii()


def classes_of(data: DataSpec, seed: int) -> Classes:
    """The classes of a recipe's training rows; kept in the workspace, since all rows are read for them.

    Raises:
        StudioError: the data cannot be read, or has fewer than two classes.
    """
    kept = kept_classes(data, seed)
    if kept:
        return kept
    from studio.data.held_out import split_conversations
    from studio.data.load import load_conversations

    rows = load_conversations(data, task="seq_cls")
    training, _ = split_conversations(rows, data, seed, "seq_cls")
    classes = find_classes(row["label"] for row in training)
    classes.save(_path(data, seed))
    return classes


def kept_classes(data: DataSpec, seed: int) -> Classes | None:
    """What :func:`classes_of` has found before, or None.

    Raises:
        StudioError: there is no such dataset.
    """
    path = _path(data, seed)
    return Classes.load(path) if path.exists() else None


def _path(data: DataSpec, seed: int) -> Path:
    from studio.data.conversations import held_out_source
    from studio.data.load import conversations_key

    parts = [
        conversations_key(data, None, "seq_cls"),
        conversations_key(held_out_source(data), None, "seq_cls") if data.holdout_source else None,
        data.holdout,
        data.holdout_rows,
        seed,
    ]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    return Workspace.current().folder("datasets/cache") / f"{key}.classes.json"
