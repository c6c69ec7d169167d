"""The recipe in the form, kept in the workspace for each browser that has one.

A browser makes itself an id when it first opens the page (``assets/load.js``) and sends it with the form. A new browser
starts from the form that was kept last, so that a second browser shows the same; after that each has its own.
"""

from __future__ import annotations

import contextlib
import re

from studio.errors import StudioError
from studio.recipe import Recipe
from studio.workspace import ASSETS, Workspace

DEFAULT_RECIPE = ASSETS.parent / "recipes" / "quickstart.yaml"
MOST_DRAFTS = 50
_ID = re.compile(r"[0-9a-f]{32}")


def is_browser(text: str | None) -> bool:
    """Whether a text can be the id of a browser. A page that has not loaded its form has none."""
    return bool(_ID.fullmatch(text or ""))


def load_draft(browser: str | None = None) -> Recipe:
    """The recipe that a browser's form was left with; else the one that was kept last; else the quickstart."""
    workspace = Workspace.current()
    paths = [workspace.drafts / f"{browser}.yaml"] if is_browser(browser) else []
    for path in (*paths, workspace.draft):
        if path.exists():
            with contextlib.suppress(StudioError):  # damaged or of another version: the next one is taken
                recipe = Recipe.load(path)
                if not recipe.problems():
                    return recipe
    return Recipe.load(DEFAULT_RECIPE)


def keep_draft(recipe: Recipe, browser: str | None) -> None:
    """Remember the form of a browser; what has problems is not kept, and neither is the form of a page without an id.

    Raises:
        OSError: it cannot be written.
    """
    if recipe.problems() or not is_browser(browser):
        return
    workspace = Workspace.current()
    path = workspace.drafts / f"{browser}.yaml"
    new = not path.exists()
    recipe.save(path)
    recipe.save(workspace.draft)
    if new:
        _drop_oldest()


def _drop_oldest() -> None:
    """Delete the drafts of the browsers that have not changed their form for the longest time."""
    found = []
    for path in Workspace.current().drafts.glob("*.yaml"):
        with contextlib.suppress(OSError):  # another page has just deleted it
            found.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(found, reverse=True)[MOST_DRAFTS:]:
        path.unlink(missing_ok=True)
