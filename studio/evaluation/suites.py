"""Prompt suites: a file of prompts, with references, tags and checks where they have them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.evaluation.checks import sound
from studio.recipe import Recipe
from studio.workspace import ASSETS

BUILTIN = ASSETS / "suites"
GENERAL = "general"
_FIELDS = ("id", "prompt", "messages", "system", "reference", "tags", "check")
_TAUGHT = {"HuggingFaceTB/smoltalk": "chat", "bigcode/the-stack-smol": "code"}  # by the sources of the recipes
_MOST_BYTES = 50_000_000


@dataclass(frozen=True)
class Prompt:
    """One prompt of a suite.

    Attributes:
        messages: the conversation that is to be answered; it ends with the user.
        reference: the answer that is wanted, or None.
        check: what the answer has to do (``studio.evaluation.checks``), or None.
    """

    id: str
    messages: tuple[dict[str, str], ...]
    reference: str | None = None
    tags: tuple[str, ...] = ()
    check: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        """What the user says last."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Suite:
    """``name`` and its prompts, each with an ``id`` of its own."""

    name: str
    prompts: tuple[Prompt, ...]

    @property
    def fingerprint(self) -> str:
        """Changes with anything that changes an answer or its score."""
        text = json.dumps([asdict(prompt) for prompt in self.prompts], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def tags(self) -> list[str]:
        """All tags, in the order in which they come up."""
        return list(dict.fromkeys(tag for prompt in self.prompts for tag in prompt.tags))


def builtin_suites() -> list[str]:
    """The names of the built-in suites; ``general`` is the first."""
    return sorted((path.stem for path in BUILTIN.glob("*.jsonl")), key=lambda name: (name != GENERAL, name))


def suites_for(recipe: Recipe) -> list[str]:
    """The built-in suites that suit a recipe: general ability, and that of what its data teaches."""
    if recipe.model.task == "seq_cls":
        return []
    source = recipe.data.source
    own = source.removeprefix("builtin/") if source.startswith("builtin/") else _TAUGHT.get(source)
    return [GENERAL, *([own] if own in builtin_suites() else [])]


def load_suite(name: str | Path) -> Suite:
    """A built-in suite by its name, or a file: ``.jsonl`` with objects (``prompt`` or ``messages``; ``system``,
    ``reference``, ``tags``, ``check``, ``id``), ``.csv`` with such columns (tags with semicolons between), or text with
    a prompt a line.

    Raises:
        StudioError: there is no such suite or file, or a line of it is broken; the line is named.
    """
    if str(name) in builtin_suites():
        path = BUILTIN / f"{name}.jsonl"
    else:
        path = Path(name).expanduser()
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise StudioError(
                f"{path.name} is larger than 50 MB.", "A suite is a few hundred prompts; take a part of it."
            )
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        known = ", ".join(builtin_suites())
        raise StudioError(
            f"There is no suite {name}: {error.strerror}.", f"Name a file, or one of: {known}."
        ) from error
    except UnicodeDecodeError as error:
        raise StudioError(f"{path.name} is not text in UTF-8.", "Save it as UTF-8.") from error
    read = {".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _table}.get(path.suffix.lower(), _lines)
    prompts: list[Prompt] = []
    known: set[str] = set()
    for line, row in read(text, path.name):
        prompt = _prompt(row, f"{path.name}, line {line}", len(prompts) + 1)
        if prompt.id in known:
            raise StudioError(f"{path.name}, line {line}: the id {prompt.id!r} is there twice.", "Give each its own.")
        known.add(prompt.id)
        prompts.append(prompt)
    if not prompts:
        raise StudioError(f"{path.name} has no prompts.", "Write one a line, or one JSON object a line.")
    return Suite(path.stem, tuple(prompts))


def _json_lines(text: str, name: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise StudioError(f"{name}, line {number}: this is not JSON ({error}).", "Mend the line.") from error


def _table(text: str, name: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            cells = {key.strip().lower(): value for key, value in row.items() if isinstance(key, str) and value}
            if cells:
                if "tags" in cells:
                    cells["tags"] = cells["tags"].split(";")
                if "check" in cells:
                    cells["check"] = json.loads(cells["check"])
                yield reader.line_num, cells
    except (csv.Error, ValueError) as error:
        raise StudioError(f"{name}, line {reader.line_num}: {error}.", "Mend the line.") from error


def _lines(text: str, name: str) -> Iterator[tuple[int, Any]]:
    yield from ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip())


def _prompt(row: Any, where: str, number: int) -> Prompt:
    row = {"prompt": row} if isinstance(row, str) else row
    if not isinstance(row, dict) or not ("prompt" in row or "messages" in row):
        raise StudioError(f"{where}: there is no prompt.", 'Write {"prompt": "..."}.')
    if unknown := [field for field in row if field not in _FIELDS]:
        raise StudioError(f"{where}: the field {unknown[0]!r} is not known.", f"Use {', '.join(_FIELDS)}.")
    messages = row.get("messages") or [{"role": "user", "content": row.get("prompt")}]
    if row.get("system"):
        messages = [{"role": "system", "content": row["system"]}, *messages]
    if not _answerable(messages):
        raise StudioError(
            f"{where}: the messages are not a conversation that ends with the user.",
            'Write [{"role": "user", "content": "..."}].',
        )
    reference, tags = row.get("reference"), row.get("tags") or []
    tags = [tags] if isinstance(tags, str) else tags
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise StudioError(f"{where}: tags are a list of words.", 'Write ["maths", "short"].')
    if reference is not None and not isinstance(reference, str):
        reference = json.dumps(reference, ensure_ascii=False)
    try:
        check = sound(row["check"]) if row.get("check") is not None else None
    except StudioError as error:
        raise StudioError(f"{where}: {error.what}", error.fix) from error
    chosen = tuple(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))
    kept = tuple({"role": message["role"], "content": message["content"]} for message in messages)
    return Prompt(str(row.get("id") or f"{number:04d}"), kept, reference, chosen, check)


def _answerable(messages: Any) -> bool:
    return (
        isinstance(messages, list)
        and all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages)
        and all(m.get("role") in ("system", "user", "assistant") for m in messages)
        and messages[-1]["role"] == "user"
        and bool(messages[-1]["content"].strip())
    )
