"""Rows as the trainer will see them, for the page: read, found, filtered and encoded in a process of its own.

:func:`main` answers requests on its standard input until that ends; ``studio.ui.data.preview_process`` asks them.
A process of its own because datasets and chat templates come from strangers: what loops for ever or eats memory is
ended, and the studio goes on.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

from studio.data import read_conversations
from studio.data.classes import Classes, kept_classes
from studio.data.conversations import Conversation, Reading, conversations_at, survey
from studio.data.encode import Encoded, encode_batch, one_per_reply
from studio.data.formats import Mapping
from studio.data.inspect_row import texts
from studio.data.refusals import RefusedText
from studio.data.row_reader import read_source
from studio.data.sources import locate
from studio.data.time_limit import time_limit
from studio.errors import StudioError
from studio.recipe import Recipe
from studio.training.check import kept_index, prepared_tokenizer, tokenizer_key
from studio.training.launch_check import examine_files

SHOWN_ROWS = 20
_ROW_SECONDS = 5  # of processor time that the template may take for the rows of one page
_SEARCH_SECONDS = 6
_SURVEY_SECONDS = 8  # for a pass over a whole dataset; without it the rows are counted at the launch
_READ_SECONDS = 12  # for the rows of one page
_MEMORY = 2 << 30  # bytes of its own
_MOST_CHARACTERS = 1_000_000  # of a row that is encoded and shown
_MOST_CHARACTERS_OF_ALL = 4_000_000  # of the rows of one page
_TOO_LONG = "It is too long to be shown here."
_MOST_ANSWER = 64 << 20  # bytes of an answer
_MOST_SHOWN_COLUMNS = 500
_LAST = 10**12  # no dataset has a row of a larger number
_TOKENIZERS = 4  # kept at a time


@dataclass(frozen=True)
class Wanted:
    """Which rows to show.

    Attributes:
        start: the first one: a row number, or a place in the list if a ``flag`` or another ``order`` is asked for.
        flag: a kind of finding of the report; empty for all rows.
        order: ``file``, ``longest`` or ``shortest`` first.
        text: what the rows must contain, case aside.
    """

    recipe: Recipe
    start: int = 1
    count: int = SHOWN_ROWS
    flag: str = ""
    order: str = "file"
    text: str = ""


@dataclass(frozen=True)
class View:
    """Rows of a dataset: what was found in it, its real columns, and each row with its encoding or its problem.

    Attributes:
        sources: (name, why its shape was found) for each source.
        next, previous: where the next and the previous page start; None if there is none.
        total: how many rows there are in the list, if that is known.
        searched: the last row number that was looked at for ``text``.
        unused_columns: the columns that are not used, of the rows that were read for this view (``Reading``).
        splits: folders of which some files belong to other splits (``Reading``).
    """

    mapping: Mapping
    columns: list[str]
    rows: list[tuple[Conversation, Encoded | str]]
    notes: list[str] = field(default_factory=list)
    sources: list[tuple[str, str]] = field(default_factory=list)
    next: int | None = None
    previous: int | None = None
    total: int | None = None
    searched: int | None = None
    unused_columns: list[dict[str, Any]] = field(default_factory=list)
    splits: list[dict[str, Any]] = field(default_factory=list)


def view(wanted: Wanted, tokenizer: Any, notes: list[str]) -> View:
    """The wanted rows, encoded as for the training.

    Raises:
        StudioError: the source cannot be read, its shape is not known, or its rows are to be filtered or sorted and no
            report has been made.
    """
    if wanted.flag or wanted.order != "file":
        return _listed(wanted, tokenizer, notes)
    recipe = wanted.recipe
    with time_limit(_READ_SECONDS, _slow_rows(), wall=_READ_SECONDS):  # a person waits, and nothing is lost
        reading = read_conversations(recipe.data, start=min(wanted.start, _LAST), task=recipe.model.task)
        found, searched = _matching(reading.conversations, wanted.text, wanted.count)
    last = searched if wanted.text else (found[-1].row if len(found) == wanted.count else None)
    previous = None if wanted.start == 1 else 1 if wanted.text else max(1, wanted.start - wanted.count)
    return _made(wanted, reading, found, tokenizer, notes, next=last and last + 1, previous=previous, searched=searched)


def _listed(wanted: Wanted, tokenizer: Any, notes: list[str]) -> View:
    """Rows from the list of a finding, or in another order, by the index that the report has left."""
    recipe = wanted.recipe
    index = kept_index(recipe)
    if index is None:
        raise StudioError(
            "The rows can be filtered and sorted once all of them have been checked.", "Press Check all rows below."
        )
    numbers, searched = index.chosen(wanted.flag, wanted.order).tolist(), None
    if wanted.text:
        every = conversations_at(recipe.data, numbers, recipe.model.task).conversations
        matching, searched = _matching(every, wanted.text, len(numbers) + 1)
        kept = {conversation.row for conversation in matching}
        numbers = [number for number in numbers if number in kept]
    page = numbers[wanted.start - 1 : wanted.start - 1 + wanted.count]
    reading = conversations_at(recipe.data, page, recipe.model.task)
    by_number = {conversation.row: conversation for conversation in reading.conversations}
    found = [by_number[number] for number in page if number in by_number]
    after = wanted.start + wanted.count
    return _made(
        wanted,
        reading,
        found,
        tokenizer,
        notes,
        next=after if after <= len(numbers) else None,
        previous=max(1, wanted.start - wanted.count) if wanted.start > 1 else None,
        total=len(numbers),
        searched=searched,
    )


def _matching(every: Iterator[Conversation], text: str, count: int) -> tuple[list[Conversation], int | None]:
    """The first so many conversations with a text in them, and the last row number looked at (None at the end)."""
    if not text:
        return list(islice(every, count)), None
    found, end, needle = [], time.monotonic() + _SEARCH_SECONDS, text.casefold()
    for conversation in every:
        if any(needle in part.casefold() for part in texts(conversation)):
            found.append(conversation)
        if len(found) == count or time.monotonic() > end:
            return found, conversation.row
    return found, None


def _made(
    wanted: Wanted, reading: Reading, found: list[Conversation], tokenizer: Any, notes: list[str], **more: Any
) -> View:
    shown = _shown(found)
    usable = [conversation for conversation in found if not conversation.dropped and conversation.row in shown]
    with time_limit(_ROW_SECONDS):
        classes = _classes(wanted.recipe, usable)
        examples = {id(c): one_per_reply(c.content(), wanted.recipe.data) for c in usable}
        every = [row for own in examples.values() for row in own]
        encoded = iter(encode_batch(tokenizer, every, wanted.recipe.data, classes))
    rows: list[tuple[Conversation, Encoded | str]] = []
    for conversation in found:
        if conversation.row not in shown:
            rows.append((replace(conversation, messages=None, text=None, tools=None, raw=None), _TOO_LONG))
            continue
        if conversation.dropped:
            rows.append((conversation, conversation.dropped))
            continue
        for example in examples[id(conversation)]:
            made = next(encoded)
            part = replace(conversation, messages=example["messages"])
            rows.append((part, RefusedText.of(made) if isinstance(made, StudioError) else made))
    sources = [(source.name, source.mapping.why) for source in reading.sources]
    tools = any(c.tools or any(m.get("tool_calls") for m in c.messages or []) for c in found)
    if tools:
        from studio.data.writer import leaves_out

        notes = [*notes, *leaves_out(tokenizer)]
    more |= {"unused_columns": reading.unused_columns()[:_MOST_SHOWN_COLUMNS], "splits": reading.splits()}
    columns = reading.columns[:_MOST_SHOWN_COLUMNS]
    return View(reading.mapping, columns, rows, [*reading.notes(), *notes], sources, **more)


def _shown(found: list[Conversation]) -> set[int]:
    """The numbers of the rows that are not too long to be shown, by themselves and all together."""
    shown, left = set(), _MOST_CHARACTERS_OF_ALL
    for conversation in found:
        length = len(conversation.input_ids or ()) + sum(map(len, texts(conversation)))
        length += sum(len(value) for value in (conversation.raw or {}).values() if isinstance(value, (str, list, dict)))
        if length <= min(_MOST_CHARACTERS, left):
            shown.add(conversation.row)
            left -= length
    return shown


def _slow_rows() -> StudioError:
    return StudioError(
        f"These rows could not be read within {_READ_SECONDS} seconds.",
        "Name a smaller file, or rows that are nearer to its beginning.",
        field="data.source",
        code="preview_too_slow",
    )


def _classes(recipe: Recipe, shown: list[Conversation]) -> Classes | None:
    """The classes that are learnt; before all rows have been read for them, those of the rows on the page."""
    if recipe.model.task != "seq_cls" or not shown:
        return None
    labels = [conversation.label for conversation in shown]
    names = {name for label in labels for name in ([label] if isinstance(label, str) else label)}
    here = Classes(tuple(sorted(names)), any(not isinstance(label, str) for label in labels))
    return kept_classes(recipe.data, recipe.train.seed) or here


def answer(request: tuple[str, Any], tokenizers: dict) -> Any:
    """The answer to a request: ``("view", Wanted)``, or one of ``template``, ``survey``, ``launch`` and
    ``readable`` with a recipe.

    Args:
        tokenizers: prepared tokenizers with their notes, kept from one request to the next.

    Raises:
        StudioError: what cannot be shown, and why.
    """
    what, given = request
    if what == "survey":
        late = StudioError("The rows take long to read.", "They are counted at the launch.", code="survey_too_long")
        with time_limit(_SURVEY_SECONDS, late, wall=_SURVEY_SECONDS):
            return survey(given.data, task=given.model.task)
    if what == "readable":
        return _read_through(given)
    if what == "launch":
        return examine_files(given, partial(_prepared, tokenizers))
    tokenizer, notes = _prepared(tokenizers, given.recipe if what == "view" else given)
    return view(given, tokenizer, list(notes)) if what == "view" else tokenizer.get_chat_template()


def _read_through(recipe: Recipe) -> None:
    """Read every row of a file or a folder, for a few seconds at most, whatever its columns are.

    Raises:
        StudioError: it cannot be read: no text, broken JSON, an unknown kind of file.
    """
    path = locate(recipe.data, recipe.data.split)
    end = time.monotonic() + _SEARCH_SECONDS
    for _ in read_source(path) if path else ():
        if time.monotonic() > end:
            return


def _prepared(tokenizers: dict, recipe: Recipe) -> tuple[Any, list[str]]:
    """The prepared tokenizer of a recipe and its notes, from ``tokenizers`` if it is kept there."""
    key = tokenizer_key(recipe)
    if key not in tokenizers:
        made = prepared_tokenizer(recipe)
        while len(tokenizers) >= _TOKENIZERS:
            tokenizers.pop(next(iter(tokenizers)))
        tokenizers[key] = made
    return tokenizers[key]


def main() -> None:
    """Answer pickled requests on standard input with pickled answers on standard output, until the input ends."""
    import resource

    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizers: dict = {}
    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        try:
            made = answer(request, tokenizers)
        except StudioError as error:
            made = error
        except MemoryError:
            made = StudioError(
                "These rows, or their chat template, need too much memory.", "Show other rows.", code="preview_memory"
            )
        except Exception as error:  # noqa: BLE001  the edge of this process: the page says it
            traceback.print_exc()
            what = f"The rows cannot be shown: {type(error).__name__}: {str(error)[:200]}"
            made = StudioError(what, "Show other rows; the studio's terminal has the details.")
        content = pickle.dumps(made)
        if len(content) > _MOST_ANSWER:
            content = pickle.dumps(
                StudioError("These rows are too long to be shown.", "Show other rows.", code="preview_too_large")
            )
        answers.write(content)
        answers.flush()
