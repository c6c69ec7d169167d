"""What a whole dataset holds, before anything is trained on it: lengths, trained share, and what looks wrong.

Everything is counted on the very examples that the encoder makes for the training.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise

from studio.data.conversations import Conversation, content_hash, held_out_limit
from studio.data.encode import IGNORE, Encoded
from studio.recipe import DataSpec

_SHOWN = 50  # rows that a finding names
_EXCERPT = 160  # characters
_BINS = 40
_LONG_ANSWER = 200  # characters; a shorter answer may well be a phrase
_SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}|\bhf_[A-Za-z0-9]{30,}"
    r"|\bsk-[A-Za-z0-9_-]{20,}|\bxox[abprs]-[A-Za-z0-9-]{10,}"
)
_EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b")

KINDS = {
    "refused": ("bad", "the chat template refuses them", "Mend or remove them: the training does not start with them."),
    "dropped": ("warn", "left out", "Mend them if they should be trained on."),
    "too_long": ("warn", "longer than max_length, and cut", "Raise max_length to train on them whole."),
    "duplicate": (
        "warn",
        "said before (case and blanks aside)",
        "Remove the copies: they count more than others.",
    ),
    "contradiction": ("warn", "another answer to the same prompt", "Decide which answer the model should learn."),
    "leak": ("warn", "a prompt that is also on the other side of the split", "The validation loss looks too good."),
    "roles": ("warn", "turns that are out of order", "User and assistant should take turns after a system message."),
    "cut_answer": ("note", "answers that seem to end in mid-sentence", "The model learns to stop there too."),
    "secret": ("bad", "what looks like a key or password", "Remove it: a model can repeat what it was trained on."),
    "email": ("note", "e-mail addresses", "Remove them if they belong to real people."),
}
"""For each kind of finding: how serious it is (``bad``, ``warn``, ``note``), what it is, and what to do."""


@dataclass
class Finding:
    """Rows that something can be said about: how many, and the first of them with a reason or an excerpt."""

    kind: str
    count: int = 0
    rows: list[tuple[int, str]] = field(default_factory=list)

    def add(self, row: int, text: str) -> None:
        self.count += 1
        if len(self.rows) < _SHOWN:
            self.rows.append((row, " ".join(text.split())[:_EXCERPT]))


@dataclass
class Report:
    """A dataset in numbers.

    Attributes:
        rows, kept: rows in the source, and examples that are trained on or held out.
        tokens, trained_tokens: of the kept examples, after ``max_length``.
        longest: tokens of the longest example, whole.
        histogram: (tokens from, examples), in bins of ``bin_tokens``, of the lengths before ``max_length``.
        turns: (messages in a conversation, examples).
        padding: share of the batches that is padding, where rows of similar length go together.
        findings: in the order of ``KINDS``; only those with rows.
    """

    rows: int = 0
    kept: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    longest: int = 0
    max_length: int = 0
    bin_tokens: int = 1
    histogram: list[tuple[int, int]] = field(default_factory=list)
    turns: list[tuple[int, int]] = field(default_factory=list)
    padding: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Report:
        values = json.loads(text)
        findings = [Finding(f["kind"], f["count"], [tuple(row) for row in f["rows"]]) for f in values.pop("findings")]
        for pairs in ("histogram", "turns"):
            values[pairs] = [tuple(pair) for pair in values[pairs]]
        return cls(**values, findings=findings)


class Examiner:
    """Takes the rows one by one and makes the report at the end; keeps a few numbers for each row, never its text."""

    def __init__(self, data: DataSpec, *, batch_size: int, seed: int):
        self._data, self._batch_size, self._seed = data, batch_size, seed
        self._found = {kind: Finding(kind) for kind in KINDS}
        self._lengths: list[int] = []
        self._turns: Counter[int] = Counter()
        self._first: dict[bytes, int] = {}  # conversation -> the row where it was first said
        self._prompts: dict[bytes, list[tuple[int, int, int]]] = defaultdict(list)  # -> (row, answer, split)
        self._hashes: list[int] = []
        self._report = Report(max_length=data.max_length)

    def add(self, conversation: Conversation, encoded: Encoded | str | None) -> None:
        """A row with its example; with the reason as text if the template refuses it; with None if it was dropped."""
        self._report.rows += 1
        row, found = conversation.row, self._found
        if conversation.dropped:
            found["dropped"].add(row, conversation.dropped)
            return
        text = "\n".join(_texts(conversation))
        if not isinstance(encoded, Encoded):
            found["refused"].add(row, encoded or "not encoded")
            return
        if encoded.dropped:
            found["dropped"].add(row, encoded.dropped)
            return
        self._count(conversation, encoded)
        if encoded.cut:
            found["too_long"].add(row, f"{len(encoded.input_ids) + encoded.cut:,} tokens: {text[:_EXCERPT]}")
        if match := _SECRETS.search(text):
            found["secret"].add(row, _masked(match.group()))
        if match := _EMAIL.search(text):
            found["email"].add(row, match.group())
        self._compare(conversation, text)
        if conversation.messages:
            if reason := _disorder([m["role"] for m in conversation.messages]):
                found["roles"].add(row, reason)
            answer = conversation.messages[-1]["content"].rstrip()
            if len(answer) > _LONG_ANSWER and _breaks_off(answer):
                found["cut_answer"].add(row, "… " + answer[-100:])

    def _count(self, conversation: Conversation, encoded: Encoded) -> None:
        report = self._report
        report.kept += 1
        report.tokens += len(encoded.input_ids)
        report.trained_tokens += sum(label != IGNORE for label in encoded.labels)
        self._lengths.append(len(encoded.input_ids) + encoded.cut)
        if conversation.messages:
            self._turns[len(conversation.messages)] += 1

    def _compare(self, conversation: Conversation, text: str) -> None:
        key = _digest(text)
        first = self._first.get(key)
        self._first.setdefault(key, conversation.row)
        if first is not None:
            self._found["duplicate"].add(conversation.row, f"as row {first}: {text[:_EXCERPT]}")
        split = content_hash({"messages": conversation.messages, "text": conversation.text}, self._seed)
        self._hashes.append(split)
        if conversation.messages:
            *before, last = _texts(conversation)
            prompt = _digest("\n".join(before))
            self._prompts[prompt].append((conversation.row, hash(_plain(last)), split))

    def report(self) -> Report:
        """The report over all rows that were added."""
        report, lengths = self._report, self._lengths
        limit = held_out_limit(self._hashes, self._data.holdout)
        for same in self._prompts.values():
            if len(same) < 2:
                continue
            first_row, first_answer, first_split = same[0]
            for row, answer, split in same[1:]:
                if answer != first_answer:
                    self._found["contradiction"].add(row, f"answered otherwise in row {first_row}")
                if limit is not None and (split < limit) != (first_split < limit):
                    self._found["leak"].add(row, f"the same prompt as row {first_row}")
        if lengths:
            report.longest = max(lengths)
            report.bin_tokens = max(1, -(-report.longest // _BINS))
            bins = Counter(length // report.bin_tokens for length in lengths)
            report.histogram = [(number * report.bin_tokens, bins[number]) for number in range(max(bins) + 1)]
            report.padding = _padding([min(n, self._data.max_length) for n in lengths], self._batch_size)
        report.turns = sorted(self._turns.items())
        report.findings = [finding for finding in self._found.values() if finding.count]
        return report


def examine(
    rows: Iterable[tuple[Conversation, Encoded | str | None]], data: DataSpec, *, batch_size: int, seed: int
) -> Report:
    """The report over rows and their examples."""
    examiner = Examiner(data, batch_size=batch_size, seed=seed)
    for conversation, encoded in rows:
        examiner.add(conversation, encoded)
    return examiner.report()


def _texts(conversation: Conversation) -> Iterator[str]:
    if conversation.messages is None:
        yield conversation.text or ""
    else:
        yield from (message["content"] for message in conversation.messages)


def _plain(text: str) -> str:
    """Text without what makes no difference to a reader: case and blanks."""
    return " ".join(text.casefold().split())


def _digest(text: str) -> bytes:
    return hashlib.blake2b(_plain(text).encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _breaks_off(answer: str) -> bool:
    """Whether a text ends with a letter or a comma in a line of several words; lists, numbers and code do not."""
    line = answer.rsplit("\n", 1)[-1]
    return (line[-1:].isalpha() or line.endswith(",")) and len(line.split()) > 5


def _masked(secret: str) -> str:
    return secret[:6] + "…" if len(secret) > 6 else "…"


def _disorder(roles: list[str]) -> str | None:
    """What is wrong with the order of the roles, or None."""
    if "system" in roles[1:]:
        return f"a system message as message {roles.index('system', 1) + 1}"
    turns = roles[1:] if roles[0] == "system" else roles
    if turns and turns[0] != "user":
        return f"it begins with the {turns[0]}"
    for number, (one, other) in enumerate(pairwise(turns), len(roles) - len(turns) + 2):
        if one == other and one in ("user", "assistant"):
            return f"two messages of the {one} in a row (message {number})"
    if turns[-1] != "assistant":
        return f"it ends with the {turns[-1]}"
    return None


def _padding(lengths: list[int], batch_size: int) -> float:
    """Share of padding in batches of similar length."""
    ordered = sorted(lengths, reverse=True)
    room = sum(
        ordered[start] * len(ordered[start : start + batch_size]) for start in range(0, len(ordered), batch_size)
    )
    return 1 - sum(lengths) / room if room else 0.0


def severity(finding: Finding) -> tuple[str, str, str]:
    """How serious a finding is, what it is, and what to do."""
    return KINDS[finding.kind]
