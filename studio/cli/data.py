"""Commands about a recipe's rows: preview, check, clean."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from studio.cli import terminal
from studio.cli.arguments import Json, Overrides, RecipePath, TrustCode
from studio.cli.trust import open_recipe
from studio.errors import StudioError

app = typer.Typer(rich_markup_mode=None)


@app.command()
def preview(
    recipe: RecipePath,
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(help="How many rows, from the first one on.", min=1)] = 5,
    as_json: Json = False,
    trust_remote_code: TrustCode = False,
) -> None:
    """Show rows as the trainer will see them: rendered, tokenised, with the tokens that carry loss marked, or with
    their class."""
    checked = open_recipe(recipe, overrides, trust_remote_code)
    with terminal.working() as report:
        from studio.data import classes_of, read_conversations
        from studio.data.encode import encode_batch, one_per_reply
        from studio.models.classification import prepare
        from studio.models.load import load_tokenizer
        from studio.models.store import fetch

        task = checked.model.task
        reading = read_conversations(checked.data, task=task)
        classes = classes_of(checked.data, checked.train.seed) if task == "seq_cls" else None
        folder = fetch(checked.model, progress=report)
        tokenizer = load_tokenizer(folder, trust_remote_code=checked.model.trust_remote_code)
        notes = prepare(tokenizer, None, checked)
        seen: list[tuple[Any, Any, str | None]] = []  # Conversation, Encoded or refusal or None, why it is dropped
        for conversation in islice(reading.conversations, rows):
            if conversation.dropped is not None:
                seen.append((conversation, None, conversation.dropped))
                continue
            examples = one_per_reply(conversation.content(), checked.data)
            for made in encode_batch(tokenizer, examples, checked.data, classes):
                seen.append((conversation, made, made.what if isinstance(made, StudioError) else made.dropped))
    if as_json:
        for note in reading.notes():
            terminal.stderr().print(note, markup=False, soft_wrap=True)
        terminal.print_json([_preview_row(*one, classes) for one in seen])
        return
    console = terminal.stdout()
    mapping = ", ".join(f"{part} = {column}" for part, column in reading.mapping.columns.items())
    console.print(f"{reading.source}: {reading.mapping.why} Mapping: {mapping}.", markup=False, soft_wrap=True)
    for note in [*reading.notes(), *notes]:
        console.print(note, markup=False, soft_wrap=True)
    if classes:
        console.print(f"Classes: {', '.join(classes.names)}.", markup=False, soft_wrap=True)
    else:
        terminal.show_legend(console, checked.data.max_length)
    for conversation, encoded, dropped in seen:
        number = conversation.row
        if isinstance(encoded, StudioError):
            terminal.show_refusal(console, number, encoded)
            continue
        if encoded is not None and encoded.turn is not None:
            number = f"{number}, reply {encoded.turn + 1}"
        if dropped:
            console.print(f"\n[bold]Row {number}[/]  [yellow]left out:[/] {escape(dropped)}", soft_wrap=True)
        else:
            trained = sum(1 for label in encoded.labels if label != -100)
            learnt = terminal.class_names(classes.named(encoded.label)) if classes else f"{trained} carry loss"
            counts = f"{len(encoded.input_ids)} tokens, {escape(learnt)}"
            console.print(f"\n[bold]Row {number}[/]  {counts}" + (f", {encoded.cut} cut off" if encoded.cut else ""))
        if encoded is not None:
            for flag in encoded.flags:
                console.print(f"[yellow]{flag.code}[/]: {escape(str(flag))}", soft_wrap=True)
            console.print(terminal.token_text(console, encoded), soft_wrap=True)


def _preview_row(conversation: Any, encoded: Any, dropped: str | None, classes: Any) -> dict[str, Any]:
    """One example as JSON. What is worth saying about it stands there only where there is something to say."""
    kept = encoded if not dropped else None
    refused = isinstance(encoded, StudioError)
    label = {"label": classes.named(kept.label) if kept else None} if classes else {}
    flags = [] if refused or encoded is None else encoded.flags
    more = {
        "code": encoded.code if refused else conversation.code,
        "place": getattr(encoded, "place", None),
        "flags": [{"code": f.code, "message": f.message, "detail": f.detail, "what": str(f)} for f in flags],
        "unused_columns": list(conversation.unused),
    }
    turn = getattr(encoded, "turn", None)
    more |= {} if turn is None else {"row": conversation.row, "turn": turn}
    return {
        "text": getattr(encoded, "text", ""),
        "input_ids": kept.input_ids if kept else [],
        "labels": kept.labels if kept else [],
        **label,
        "dropped": dropped,
        **{key: value for key, value in more.items() if value not in (None, "", [])},
    }


@app.command()
def check(
    recipe: RecipePath, overrides: Overrides = None, as_json: Json = False, trust_remote_code: TrustCode = False
) -> None:
    """Look at every row of the dataset: what is left out or cut, duplicates, contradictions, leaks, keys."""
    checked = open_recipe(recipe, overrides, trust_remote_code)
    with terminal.working() as report:
        from studio.models.store import fetch
        from studio.training.check import check as check_rows

        fetch(checked.model, progress=report)
        found = check_rows(checked, lambda rows: report(f"Checking: {rows:,} rows so far", 0, 0))
    if as_json:
        terminal.print_json(json.loads(found.to_json()))
    else:
        terminal.show_report(terminal.stdout(), found)


@app.command()
def clean(
    recipe: RecipePath,
    target: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="Where to write the rows.")],
    overrides: Overrides = None,
    without: Annotated[
        str, typer.Option(help="Findings of `check` whose rows are left out, with commas between them.")
    ] = "duplicate",
    as_json: Json = False,
    trust_remote_code: TrustCode = False,
) -> None:
    """Write the rows of the dataset to a JSONL file, without those that cannot be trained on and those named."""
    checked = open_recipe(recipe, overrides, trust_remote_code)
    with terminal.working() as report:
        from studio.models.store import fetch
        from studio.training.clean import clean as clean_rows

        fetch(checked.model, progress=report)
        kinds = [kind.strip() for kind in without.split(",") if kind.strip()]
        kept, left = clean_rows(checked, target, kinds, lambda rows: report(f"Rows so far: {rows:,}", 0, 0))
    if as_json:
        terminal.print_json({"kept": kept, "left_out": left, "path": str(target)})
    else:
        terminal.stdout().print(f"{kept:,} rows are in {target}; {left:,} are left out.", soft_wrap=True)
