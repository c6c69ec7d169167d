"""``python app.py export``: what is made of a tuned model when it is shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from studio.cli import terminal
from studio.cli.arguments import RunId
from studio.export.kinds import DTYPES, GGUF_TYPES, KINDS, Options
from studio.runs import Run

app = typer.Typer(rich_markup_mode=None)
_EACH = " ".join(f"{name}: {kind.about}" for name, kind in KINDS.items())


@app.command(epilog=f"Kinds. {_EACH} See docs/export.md.")
def export(
    run: RunId,
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"Format: {', '.join(KINDS)}.")],
    to: Annotated[
        Path | None, typer.Option(help="File or folder, which must not exist yet; else a new one in the workspace.")
    ] = None,
    dtype: Annotated[str, typer.Option(help=f"Whole weights as {', '.join(DTYPES)} (auto: as trained).")] = "auto",
    gguf_type: Annotated[str, typer.Option(help=f"A GGUF's weights as {', '.join(GGUF_TYPES)}.")] = "f16",
    zip: Annotated[bool, typer.Option("--zip", help="adapter, script: one .zip file.")] = False,
    weights: Annotated[str, typer.Option(help="ollama: safetensors, or gguf.")] = "safetensors",
    repo: Annotated[str, typer.Option(help="hub: owner/name, or a name alone for your own.")] = "",
    public: Annotated[bool, typer.Option("--public", help="hub: let everybody see a new repository.")] = False,
    update: Annotated[bool, typer.Option("--update", help="hub: push to an existing repository.")] = False,
    what: Annotated[str, typer.Option(help="hub: adapter or merged (auto: the adapter if there is one).")] = "auto",
) -> None:
    """Ship a run's model. It is read back before it counts; the last line on stdout is the path, or the address."""
    options = Options(dtype, gguf_type, zip, weights, repo, not public, update, what)
    with terminal.working() as report:
        from studio.export import export as make

        made = make(Run.open(run), kind, to, options, report)
    for line in made.told:
        terminal.stderr().print(line, markup=False, soft_wrap=True)
    print(made.path, flush=True)
