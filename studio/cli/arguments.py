"""Arguments that several commands of ``python app.py`` take."""

from pathlib import Path
from typing import Annotated

import typer

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, as `runs` lists it.")]
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe: a YAML file such as those in recipes/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="path.to.field=value", help="Fields of the recipe to change, e.g. train.max_steps=10."),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Allow the Python code that comes with the model to run; its files are listed first.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
