"""Where a dataset's rows come from: one source or several, each built in, on the Hub, or on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain, dropwhile, islice
from pathlib import Path
from typing import Any

from studio.data import detect, files, formats, hub_datasets
from studio.data import row_reader as rows
from studio.data.files import Row
from studio.data.splits import Taken
from studio.errors import StudioError
from studio.recipe import DataSpec, SourceSpec
from studio.workspace import ASSETS

_SAMPLE = 20  # rows looked at to find the shape


@dataclass(frozen=True)
class Source:
    """An open source: its name, the mapping found, its real columns, and its rows as they are read.

    ``taken`` says which files of a folder are read; None where none is left out.
    """

    name: str
    mapping: formats.Mapping
    columns: list[str]
    rows: Iterator[Row]
    weight: float = 1.0
    taken: Taken | None = None


def builtin_names() -> list[str]:
    """The datasets that come with the studio, as ``builtin/NAME``."""
    return sorted(f"builtin/{p.parent.name}" for p in (ASSETS / "datasets").glob("*/train.jsonl"))


def locate(spec: SourceSpec, split: str) -> Path | None:
    """The local file or folder behind a source, or None if it is a Hub id.

    Raises:
        StudioError: there is no such built-in dataset, split or file.
    """
    if spec.source.startswith("builtin/"):
        return _builtin(spec.source, split)
    path = Path(spec.source)
    try:
        path = path.expanduser()
        exists = path.exists()
    except (OSError, ValueError, RuntimeError):  # a name that no file system takes, an unknown home
        exists = False
    if exists or files.kind_of(path)[0] in files.KINDS or not hub_datasets.is_id(spec.source):
        if not exists:
            shown = spec.source if len(spec.source) <= 200 else f"{spec.source[:200]}…"
            raise StudioError(
                f"There is no file or Hub dataset {shown!r}.",
                "Upload the file, or give its path, or a Hub id such as owner/name.",
                field="data.source",
            )
        if split != "train":
            files.files_of(path, split)
        return path
    return None


def _builtin(source: str, split: str) -> Path:
    if source not in builtin_names():
        raise StudioError(
            f"There is no built-in dataset {source!r}.", f"There is: {', '.join(builtin_names())}.", field="data.source"
        )
    folder = ASSETS / "datasets" / source.removeprefix("builtin/")
    path = folder / f"{split}.jsonl"
    if path not in folder.glob("*.jsonl"):
        splits = ", ".join(sorted(p.stem for p in folder.glob("*.jsonl")))
        raise StudioError(f"{source} has no split {split!r}.", f"It has: {splits}.", field="data.split")
    return path


def parts(data: DataSpec, split: str | None = None) -> list[SourceSpec]:
    """The sources of a dataset; of another split than the one to train on, the first source alone."""
    if split not in (None, data.split):
        other = {"split": split, "mix": [], "max_rows": 0, "skip_rows": 0}
        return [data.model_copy(update=other)]
    return [data, *data.mix]


def identity(data: DataSpec, split: str | None = None) -> list[Any]:
    """What changes when any of a dataset's sources does.

    Raises:
        StudioError: a source cannot be had.
    """
    found = []
    for spec in parts(data, split):
        path = locate(spec, spec.split)
        if path is None:
            found.append(hub_datasets.identity(spec))
            continue
        one = files.taken(path, split_in(spec))
        found.append([*files.identity(path, split_in(spec)), *([asdict(one)] if one else [])])
    return found


def splits(data: SourceSpec) -> list[str]:
    """The names of a dataset's splits; a local file has one, ``train``, and a folder may have several."""
    if data.source.startswith("builtin/"):
        return sorted(p.stem for p in locate(data, "train").parent.glob("*.jsonl"))
    path = locate(data, data.split)
    return list(files.splits_of(path)) if path else hub_datasets.splits(data)


def split_in(spec: SourceSpec) -> str:
    """The split to read within the path that ``locate`` gives; a built-in dataset has a file for each split."""
    return "train" if spec.source.startswith("builtin/") else spec.split


def open_source(spec: SourceSpec, start: int = 1, task: str = "causal_lm") -> Source:
    """Open one source and find its shape from its first rows.

    Args:
        start: the number of the first row that is wanted.
        task: the recipe's ``model.task``; with ``seq_cls`` the rows need a text and a label.

    Raises:
        StudioError: it cannot be read, or its shape is not known. Reading the rows may raise it too.
    """
    path = locate(spec, spec.split)
    source = rows.read_source(path, split=split_in(spec)) if path else hub_datasets.stream(spec, spec.split)
    head = list(islice(source, _SAMPLE))
    mapping = detect.detect([row.values for row in head], spec.format, spec.columns, task)
    columns = list(dict.fromkeys(name for row in head for name in row.values))
    name = path.name if path else spec.source
    ranged = _ranged(spec, path, chain(head, source), start)
    weight = getattr(spec, "weight", 1.0)
    return Source(name, mapping, columns, ranged, weight, files.taken(path, split_in(spec)) if path else None)


def _ranged(spec: SourceSpec, path: Path | None, every: Iterator[Row], start: int) -> Iterator[Row]:
    """The rows of the recipe's range from the number ``start`` on, moving past the others as fast as the source can."""
    skip, most = spec.skip_rows, spec.max_rows
    if (path is None and start > 1) or (path is None and skip):
        first = max(skip + 1, start)
        end = skip + most + 1 - first if most else None
        return islice(hub_datasets.stream(spec, spec.split, first), end if end is None else max(0, end))
    if skip or most:
        every = islice(every, skip, skip + most if most else None)
    elif start > 1:
        return rows.read_source(path, start, split_in(spec))
    return dropwhile(lambda row: row.number < start, every) if start > 1 else every


def open_all(
    specs: list[SourceSpec], start: int = 1, task: str = "causal_lm"
) -> tuple[list[Source], Iterator[tuple[Source, Row]]]:
    """Open several sources as one: the sources, and their rows one source after another.

    A single source keeps its row numbers (lines, in a file of lines). Of several, the rows are counted, and ``where``
    says which row of which source each is.
    """
    if len(specs) == 1:
        only = open_source(specs[0], start, task)
        return [only], ((only, row) for row in only.rows)
    opened = [open_source(spec, task=task) for spec in specs]
    return opened, dropwhile(lambda pair: pair[1].number < start, _counted(opened))


def _counted(opened: list[Source]) -> Iterator[tuple[Source, Row]]:
    number = 0
    for source in opened:
        for row in source.rows:
            number += 1
            yield source, replace(row, number=number, where=f"{source.name}, {row.where or f'row {row.number}'}")


def rows_at(
    specs: list[SourceSpec], numbers: Iterable[int], task: str = "causal_lm"
) -> tuple[list[Source], Iterator[tuple[Source, Row]]]:
    """The rows with these numbers, in ascending order.

    Raises:
        StudioError: as ``open_source``.
    """
    wanted = sorted(set(numbers))
    if len(specs) == 1 and (path := locate(specs[0], specs[0].split)):
        only = open_source(specs[0], task=task)
        return [only], ((only, row) for row in rows.read_rows_at(path, wanted, split_in(specs[0])))
    opened, pairs = open_all(specs, wanted[0] if wanted else 1, task)
    last = wanted[-1] if wanted else 0
    chosen = set(wanted)

    def picked() -> Iterator[tuple[Source, Row]]:
        for source, row in pairs:
            if row.number in chosen:
                yield source, row
            if row.number >= last:
                return

    return opened, picked()
