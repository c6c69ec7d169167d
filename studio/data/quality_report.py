"""What a whole dataset holds, before anything is trained on it: lengths, trained share, and what looks wrong.

Everything is counted on the very examples that the encoder makes for the training.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy

from studio.data.conversations import Conversation
from studio.data.duplicates import Clusters
from studio.data.encode import Encoded
from studio.data.flags import FLAGS
from studio.data.inspect_row import EXCERPT, Inspection, inspect_row
from studio.data.pack import pack
from studio.data.split import by_hash
from studio.errors import StudioError
from studio.recipe import DataSpec

_SHOWN = 50  # rows that a finding names
_BINS = 40
_FINE = 1000  # lengths that are told apart at most

KINDS = {
    "refused": ("bad", "the chat template refuses them", "Correct them, or drop them."),
    "dropped": ("bad", "left out", "Correct them, or drop them."),
    "unwanted": ("note", "left out, as the dataset says", "Nothing needs to be done."),
    "masked": ("warn", "the answer lies beyond max_length; left out", "Raise max_length to train on them."),
    "too_long": ("warn", "longer than max_length, truncated", "Raise max_length to train on them whole."),
    "duplicate": (
        "warn",
        "duplicates (ignoring case and whitespace)",
        "Consider removing them: duplicated rows are over-weighted.",
    ),
    "near_duplicate": ("note", "near duplicates", "Remove them if they add nothing."),
    "contradiction": ("warn", "conflicting answers to one prompt", "Decide which answer the model should learn."),
    "leak": ("warn", "prompt appears in both train and validation (leakage)", "The validation loss looks too good."),
    "roles": ("warn", "invalid turn order", "User and assistant should take turns after a system message."),
    "cut_answer": ("note", "answers that seem to end in mid-sentence", "The model learns to stop there too."),
    "secret": ("bad", "possible secrets (keys, passwords)", "Remove it: a model can repeat what it was trained on."),
    "email": ("note", "e-mail addresses", "Remove them if they belong to real people."),
    **FLAGS,
}
"""For each kind of finding: how serious it is (``bad``, ``warn``, ``note``), what it is, and what to do."""
INVALID = ("refused", "dropped")  # they block a launch until they are fixed or skipped


@dataclass
class Finding:
    """Rows that something can be said about: how many, and the first of them with a reason or an excerpt."""

    kind: str
    count: int = 0
    rows: list[tuple[int, str]] = field(default_factory=list)


@dataclass
class Report:
    """A dataset in numbers.

    Attributes:
        rows, kept: rows in the source, and examples that are trained on or held out.
        held_out: how many of them are held out.
        tokens, trained_tokens: of the kept examples, after ``max_length``.
        longest: tokens of the longest example, whole.
        histogram: (tokens from, examples), in bins of ``bin_tokens``, of the lengths before ``max_length``, also of
            examples of which too little is left to train on.
        turns: (messages in a conversation, examples).
        classes: (class, examples), by the alphabet, where texts are put into classes.
        lengths: (tokens, examples) finely, to tell what another ``max_length`` would cut.
        padding: share of the batches that is padding, where rows of similar length go together.
        packing: share of rows of ``max_length`` that is filled if short examples are packed into them.
        findings: in the order of ``KINDS``; only those with rows.
        refusals: code of the encoder's refusal -> how many rows it refuses.
        unused_columns: columns that are not read, each as ``{"source", "column", "rows"}`` with the rows that have a
            value in it.
        splits: folders of which some files belong to other splits, as ``{"source", "split", "files", "left_out"}``.
        notes: the last two in sentences.
    """

    rows: int = 0
    kept: int = 0
    held_out: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    longest: int = 0
    max_length: int = 0
    batch_size: int = 1
    bin_tokens: int = 1
    histogram: list[tuple[int, int]] = field(default_factory=list)
    turns: list[tuple[int, int]] = field(default_factory=list)
    classes: list[tuple[str, int]] = field(default_factory=list)
    padding: float = 0.0
    packing: float = 0.0
    lengths: list[tuple[int, int]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    unused_columns: list[dict] = field(default_factory=list)
    splits: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Report:
        values = json.loads(text)
        findings = [Finding(f["kind"], f["count"], [tuple(row) for row in f["rows"]]) for f in values.pop("findings")]
        for pairs in ("histogram", "turns", "classes", "lengths"):
            values[pairs] = [tuple(pair) for pair in values[pairs]]
        return cls(**values, findings=findings)

    def found(self, kind: str) -> int:
        """How many rows there are of a kind of finding."""
        return next((f.count for f in self.findings if f.kind == kind), 0)


@dataclass
class Index:
    """Every row by its number, and which rows each finding names: what the row browser filters and sorts by.

    Attributes:
        rows: row numbers, ascending; ``lengths``: their tokens before ``max_length``, 0 if left out.
        flags: kind of finding -> row numbers, ascending.
    """

    rows: numpy.ndarray
    lengths: numpy.ndarray
    flags: dict[str, numpy.ndarray]

    def save(self, path: Path) -> None:
        """Write it as an ``.npz`` file."""
        with path.open("wb") as file:
            named = {f"flag_{kind}": rows for kind, rows in self.flags.items()}
            numpy.savez(file, rows=self.rows, lengths=self.lengths, **named)

    @classmethod
    def load(cls, path: Path) -> Index:
        with numpy.load(path) as stored:
            flags = {name.removeprefix("flag_"): stored[name] for name in stored.files if name.startswith("flag_")}
            return cls(stored["rows"], stored["lengths"], flags)

    def chosen(self, flag: str = "", order: str = "file") -> numpy.ndarray:
        """Row numbers with a flag (or all that are kept or not), by ``file``, ``longest`` or ``shortest`` first."""
        rows, lengths = self.rows, self.lengths
        if flag:
            with_flag = numpy.isin(rows, self.flags.get(flag, numpy.array([], dtype=numpy.int64)))
            rows, lengths = rows[with_flag], lengths[with_flag]
        if order == "file":
            return rows
        rows, lengths = rows[lengths > 0], lengths[lengths > 0]
        return rows[numpy.argsort(-lengths if order == "longest" else lengths, kind="stable")]


class Examiner:
    """Takes the rows one by one and makes the report at the end; keeps a few numbers for each row, never its text."""

    def __init__(self, data: DataSpec, *, batch_size: int):
        self._data = data
        self._rows: dict[str, list[tuple[int, str]]] = {kind: [] for kind in KINDS}
        self._flags: dict[str, list[int]] = {kind: [] for kind in KINDS}
        self._numbers: list[int] = []
        self._all_lengths: list[int] = []
        self._lengths: Counter[int] = Counter()  # before max_length
        self._used: Counter[int] = Counter()  # after it, of the kept
        self._turns: Counter[int] = Counter()
        self._classes: Counter[str] = Counter()
        self._first: dict[bytes, int] = {}  # what is said -> the row where it was first said
        self._prompts: dict[bytes, list[tuple[int, bytes, int]]] = defaultdict(list)  # -> (row, answer, place)
        self._split_rows: list[int] = []  # of the rows that are split, in order, as the next four
        self._hashes: list[int] = []
        self._held_out: list[bool] = []
        self._copies: list[int] = []
        self._examples: list[int] = []  # of each of them, how many are used
        self._refusals: Counter[str] = Counter()
        self._clusters = Clusters()
        self._second: set[bytes] = set()  # prompts of rows that are held out from another source
        self._second_groups: set[int] = set()
        self._report = Report(max_length=data.max_length, batch_size=batch_size)

    def add_held_out(self, inspection: Inspection) -> None:
        """Take in a row of ``data.holdout_source``; all of them come before the first of :meth:`add`."""
        if inspection.hash is None:
            return
        place = -1 - len(self._second_groups)
        self._clusters.add(place, inspection.signature)
        self._second_groups.add(place)
        self._report.held_out += inspection.copies * sum(1 for _, tokens in inspection.examples if tokens)
        if inspection.prompt is not None:
            self._second.add(inspection.prompt)

    def add(self, inspection: Inspection) -> None:
        """Take in a row."""
        report, row = self._report, inspection.row
        report.rows += 1
        self._numbers.append(row)
        self._all_lengths.append(inspection.length)
        for whole, _ in inspection.examples:
            if whole:
                self._lengths[whole] += inspection.copies
        if inspection.refusal:
            self._refusals[inspection.refusal] += 1
        for kind, text in inspection.findings.items():
            self._find(kind, row, text, inspection.where)
        near = self._to_split(inspection) if inspection.hash is not None else None
        if not inspection.kept:
            return
        copies = inspection.copies
        used = [tokens for _, tokens in inspection.examples if tokens]
        report.kept += copies * len(used)
        report.tokens += inspection.tokens * copies
        report.trained_tokens += inspection.trained * copies
        for tokens in used:
            self._used[tokens] += copies
        if inspection.messages:
            self._turns[inspection.messages] += copies
        self._classes.update(dict.fromkeys(inspection.classes, copies))
        self._compare(inspection, near)

    def _to_split(self, inspection: Inspection) -> int | None:
        """Take in what the split goes by; returns the place of an earlier row that this one is nearly the same as."""
        near = self._clusters.add(len(self._hashes), inspection.signature)
        self._split_rows.append(inspection.row)
        self._hashes.append(inspection.hash)
        self._held_out.append(inspection.held_out)
        self._copies.append(inspection.copies)
        self._examples.append(sum(1 for _, tokens in inspection.examples if tokens))
        return near

    def _find(self, kind: str, row: int, text: str, where: str = "") -> None:
        self._flags[kind].append(row)
        if len(self._rows[kind]) < _SHOWN:
            self._rows[kind].append((row, " ".join(f"{where}: {text}".removeprefix(": ").split())[:EXCERPT]))

    def _compare(self, inspection: Inspection, near: int | None) -> None:
        row, place = inspection.row, len(self._hashes) - 1
        first = self._first.setdefault(inspection.whole, row)
        if first != row:
            self._find("duplicate", row, f"as row {first:,}: {inspection.excerpt}", inspection.where)
        elif near is not None and near >= 0:
            self._find("near_duplicate", row, f"like row {self._split_rows[near]:,}: {inspection.excerpt}")
        if self._clusters.group(place) in self._second_groups or inspection.prompt in self._second:
            self._find("leak", row, f"(nearly) the same is held out: {inspection.excerpt}")
        if inspection.prompt is not None:
            self._prompts[inspection.prompt].append((row, inspection.answer, place))

    def report(self) -> Report:
        """The report over all rows that were added."""
        report, lengths = self._report, self._lengths
        held_out = self._split()
        report.held_out += sum(
            n * examples for n, out, examples in zip(self._copies, held_out, self._examples, strict=True) if out
        )
        report.refusals = dict(self._refusals.most_common())
        if self._data.holdout_column:
            self._leaks(held_out)
        leaked = set(self._flags["leak"])
        for same in self._prompts.values():
            if len(same) < 2:
                continue
            first_row, first_answer, first_index = same[0]
            for row, answer, index in same[1:]:
                if answer != first_answer:
                    self._find("contradiction", row, f"answered otherwise in row {first_row:,}")
                if held_out[index] != held_out[first_index] and row not in leaked:
                    self._find("leak", row, f"the same prompt as row {first_row:,}")
        if lengths:
            report.longest = max(lengths)
            report.bin_tokens = max(1, -(-report.longest // _BINS))
            bins: Counter[int] = Counter()
            for length, count in lengths.items():
                bins[length // report.bin_tokens] += count
            report.histogram = [(number * report.bin_tokens, bins[number]) for number in range(max(bins) + 1)]
            fine: Counter[int] = Counter()
            grain = -(-report.longest // _FINE)
            for length, count in lengths.items():
                rounded = -(-length // grain) * grain
                fine[min(rounded, report.max_length) if length <= report.max_length else rounded] += count
            report.lengths = sorted(fine.items())
            report.padding = _padding(self._used, report.batch_size)
            report.packing = _packing(self._used, report.max_length)
        report.turns = sorted(self._turns.items())
        report.classes = sorted(self._classes.items())
        report.findings = [Finding(kind, len(rows), self._rows[kind]) for kind, rows in self._flags.items() if rows]
        return report

    def _leaks(self, held_out: list[bool]) -> None:
        """Find the rows that are nearly the same as one that a column holds out."""
        group = self._clusters.group
        taken = {group(place) for place, out in enumerate(held_out) if out}
        for place, out in enumerate(held_out):
            if not out and group(place) in taken:
                self._find("leak", self._split_rows[place], "(nearly) the same is held out, so it is not trained on")

    def _split(self) -> list[bool]:
        """Which of the rows are held out, as ``split_conversations`` does it."""
        if self._data.holdout_source:
            return [False] * len(self._hashes)
        if self._data.holdout_column:
            return self._held_out
        used = [index for index, copies in enumerate(self._copies) for _ in range(copies)]
        hashes = [self._hashes[index] for index in used]
        out = by_hash(hashes, [self._clusters.group(index) for index in used], self._data)
        held_out = dict(zip(used, out, strict=True))
        return [held_out[index] for index in range(len(self._hashes))]

    def index(self) -> Index:
        """The rows and findings to browse by, after :meth:`report`."""
        flags = {kind: numpy.array(sorted(rows), dtype=numpy.int64) for kind, rows in self._flags.items() if rows}
        return Index(numpy.array(self._numbers, numpy.int64), numpy.array(self._all_lengths, numpy.int32), flags)


def examine(
    rows: Iterable[tuple[Conversation, Encoded | StudioError | None]], data: DataSpec, *, batch_size: int, seed: int
) -> Report:
    """The report over rows and their examples."""
    examiner = Examiner(data, batch_size=batch_size)
    for conversation, encoded in rows:
        examiner.add(inspect_row(conversation, encoded, seed))
    return examiner.report()


def _padding(lengths: Counter[int], batch_size: int) -> float:
    """Share of padding in batches of similar length."""
    ordered = sorted(lengths.elements(), reverse=True)
    room = sum(
        ordered[start] * len(ordered[start : start + batch_size]) for start in range(0, len(ordered), batch_size)
    )
    return 1 - sum(ordered) / room if room else 0.0


def _packing(lengths: Counter[int], size: int) -> float:
    """Share of the room that is used when examples are packed into rows of ``size`` tokens."""
    rows = len(pack(list(lengths.elements()), size))
    return sum(length * count for length, count in lengths.items()) / (rows * size) if rows else 0.0


def severity(finding: Finding) -> tuple[str, str, str]:
    """How serious a finding is, what it is, and what to do."""
    return KINDS[finding.kind]
