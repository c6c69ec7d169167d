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
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
