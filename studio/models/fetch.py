"""Fetch a model in a process of its own: ``python -m studio.models.fetch MODEL_ID [--revision R]``.

The studio's page process starts this and reads its progress with :func:`studio.jobs.progress.download_state`.
The folder's path is the last line on stdout; the bar and messages go to stderr. Exit status 0 or 1.
"""

from __future__ import annotations

import argparse
import signal
import sys

from studio.errors import StudioError
from studio.jobs.progress import Progress, Report
from studio.models.store import fetch
from studio.recipe import ModelSpec


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m studio.models.fetch", description="Fetch a base model.")
    parser.add_argument("model_id", help="builtin/NAME, a Hub id, a folder or a .gguf file")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--trust-remote-code", action="store_true", help="fetch the model's own Python code too")
    given = parser.parse_args(arguments)
    spec = ModelSpec(id=given.model_id, revision=given.revision, trust_remote_code=given.trust_remote_code)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill cleans up as Ctrl-C does
    bar, show = _bar() if sys.stderr.isatty() else (None, _lines())
    try:
        progress = Progress(spec.id, also=show)
        try:
            folder = fetch(spec, progress=progress)
        except StudioError as error:
            progress.failed(error)
            raise
        except KeyboardInterrupt:
            progress.failed(StudioError("The download was stopped.", "Start it again; it goes on from there."))
            raise
        progress.done()
    except StudioError as error:
        print(f"{error.what} {error.fix}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if bar:
            bar.stop()
    print(folder)
    return 0


def _lines() -> Report:
    """Each sentence once, a line each: for a log file."""
    said: set[str] = set()

    def show(what: str, done: int, total: int) -> None:
        if what not in said:
            said.add(what)
            print(what, file=sys.stderr, flush=True)

    return show


def _bar() -> tuple[object, Report]:
    """A started rich progress bar on stderr, and the function that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    bar = Bar(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
    task = bar.add_task("Starting", total=None)
    bar.start()

    def show(what: str, done: int, total: int) -> None:
        bar.update(task, description=what, completed=done, total=total or None)

    return bar, show


if __name__ == "__main__":
    sys.exit(main())
