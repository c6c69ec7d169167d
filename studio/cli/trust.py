"""Python code that comes with a model, on the command line: what allows it, and the command ``trust``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from studio.cli import terminal
from studio.errors import StudioError
from studio.models.remote_code import RemoteCode, allow, find_code, may_run, withdraw
from studio.models.store import fetch, local_folder
from studio.recipe import ModelSpec, Recipe

app = typer.Typer(rich_markup_mode=None)
_FIELD = "model.trust_remote_code"


def open_recipe(path: Path, overrides: list[str] | None, trusted: bool = False) -> Recipe:
    """A sound recipe for a command. What the person has typed allows the model's code; what the file says does not.

    Args:
        trusted: ``--trust-remote-code`` was given.

    Raises:
        StudioError: the recipe has problems, or asks for code that nobody has allowed.
    """
    recipe = Recipe.load(path, overrides).check()
    if trusted or _typed(overrides):
        recipe.model.trust_remote_code = True
        with terminal.working() as report:
            folder = fetch(recipe.model, progress=report)
        code = find_code(folder)
        if code:
            list_code(code)
            allow(recipe.model, folder, code.digest)
    elif recipe.model.trust_remote_code and (folder := local_folder(recipe.model)):
        may_run(folder, True)  # the worker would refuse it later
    return recipe


def _typed(overrides: list[str] | None) -> bool:
    values = [text for path, _, text in (each.partition("=") for each in overrides or []) if path.strip() == _FIELD]
    return bool(values) and yaml.safe_load(values[-1]) is True


def list_code(code: RemoteCode) -> None:
    """Print the files that would run, on stderr."""
    console = terminal.stderr()
    console.print("This model brings Python code. It can do anything on this machine:", soft_wrap=True)
    for file in code.files:
        console.print(f"  {file.path}  {file.size:,} bytes  sha256 {file.sha256}", markup=False, soft_wrap=True)
    for entry in code.entries:
        console.print(f"  entry point {entry}", markup=False, soft_wrap=True)


@app.command()
def trust(
    model: Annotated[str, typer.Argument(help="A Hub id or a folder.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Take the permission back.")] = False,
) -> None:
    """List the Python files that come with a model, and allow them to run in this workspace."""
    spec = ModelSpec(id=model, revision=revision, trust_remote_code=True)
    with terminal.working() as report:
        folder = fetch(spec, progress=report)
    console = terminal.stderr()
    if forget:
        console.print("The permission is taken back." if withdraw(folder) else "There was no permission.")
        return
    code = find_code(folder)
    if code is None:
        raise StudioError(f"{model} brings no Python code.", "It needs no permission.")
    list_code(code)
    if not yes and not typer.confirm("Allow these files to run?", err=True):
        raise typer.Exit(1)
    allow(spec, folder, code.digest)
    console.print(f"Allowed for {folder}. Changed files are asked about again.", soft_wrap=True)
