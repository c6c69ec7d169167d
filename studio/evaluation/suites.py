"""Prompt suites: a file of prompts, with references, tags and checks where they have them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.evaluation.checks import sound
from studio.evaluation.prompt_files import read_prompt_rows
from studio.recipe import Recipe
from studio.workspace import ASSETS

BUILTIN = ASSETS / "suites"
GENERAL = "general"
_FIELDS = ("id", "prompt", "messages", "system", "reference", "tags", "check")
_TAUGHT = {"HuggingFaceTB/smoltalk": "chat", "bigcode/the-stack-smol": "code"}  # by the sources of the recipes
_MOST_TAGS = 200
_LONGEST_NAME = 200  # characters of an id or a tag
_LONGEST_REFERENCE = 100_000  # characters


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
    """A built-in suite by its name, or a file that :mod:`studio.evaluation.prompt_files` reads.

    Its rows are texts, or objects with ``prompt`` or ``messages``, and ``system``, ``reference``, ``tags``, ``check``,
    ``id``; the tags of a CSV have semicolons between.

    Raises:
        StudioError: there is no such suite or file, or a row of it is broken; the row is named.
    """
    path = BUILTIN / f"{name}.jsonl" if str(name) in builtin_suites() else _expanded(name)
    prompts: list[Prompt] = []
    ids: set[str] = set()
    tags: set[str] = set()
    try:
        for where, row in read_prompt_rows(path):
            prompt = _prompt(row, where, len(prompts) + 1)
            if prompt.id in ids:
                raise StudioError(f"{where}: the id {prompt.id!r} is there twice.", "Give each its own.")
            ids.add(prompt.id)
            tags.update(prompt.tags)
            prompts.append(prompt)
            if len(tags) > _MOST_TAGS:
                raise StudioError(f"{where}: the suite has more than {_MOST_TAGS} tags.", "Use fewer.")
    except StudioError as error:
        if error.code != "no-prompt-file":
            raise
        raise StudioError(
            f"There is no suite {str(name)[:200]}: {error.what}",
            f"Name a file, or one of: {', '.join(builtin_suites())}.",
            code="no-suite",
        ) from error
    if not prompts:
        raise StudioError(f"{path.name} has no prompts.", "Write one a line, or one JSON object a line.")
    return Suite(path.stem, tuple(prompts))


def _expanded(name: str | Path) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # the home of a user who does not exist
        return Path(name)


def _prompt(row: Any, where: str, number: int) -> Prompt:
    row = {"prompt": row} if isinstance(row, str) else row
    if not isinstance(row, dict) or not ("prompt" in row or "messages" in row):
        raise StudioError(f"{where}: there is no prompt.", 'Write {"prompt": "..."}.')
    if unknown := [field for field in row if field not in _FIELDS]:
        raise StudioError(f"{where}: the field {str(unknown[0])[:60]!r} is not known.", f"Use {', '.join(_FIELDS)}.")
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
    if not isinstance(tags, list) or not all(isinstance(tag, str) and len(tag) <= _LONGEST_NAME for tag in tags):
        raise StudioError(f"{where}: tags are a list of words.", 'Write ["maths", "short"].')
    if reference is not None and not isinstance(reference, str):
        reference = json.dumps(reference, ensure_ascii=False)
    if reference is not None and len(reference) > _LONGEST_REFERENCE:
        raise StudioError(f"{where}: the reference has more than {_LONGEST_REFERENCE:,} characters.", "Shorten it.")
    name = str(row.get("id") or f"{number:04d}")
    if len(name) > _LONGEST_NAME:
        raise StudioError(f"{where}: the id has more than {_LONGEST_NAME} characters.", "Shorten it.")
    try:
        check = sound(row["check"]) if row.get("check") is not None else None
    except StudioError as error:
        raise StudioError(f"{where}: {error.what}", error.fix, code=error.code) from error
    chosen = tuple(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))
    kept = tuple({"role": message["role"], "content": message["content"]} for message in messages)
    return Prompt(name, kept, reference, chosen, check)


def _answerable(messages: Any) -> bool:
    return (
        isinstance(messages, list)
        and all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages)
        and all(m.get("role") in ("system", "user", "assistant") for m in messages)
        and messages[-1]["role"] == "user"
        and bool(messages[-1]["content"].strip())
    )
