"""Addresses beside the page from which a run's log, its numbers and what was exported are downloaded, whole, while
the run goes on too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from studio.errors import StudioError
from studio.export import job
from studio.runs import Run
from studio.runs.export import metrics_csv
from studio.runs.feed import Reader, file_size
from studio.runs.plain_file import open_plain

_PORTION_BYTES = 1 << 18


def routes() -> list[Route]:
    """``runs/ID/log.txt``, ``runs/ID/metrics.csv`` and ``runs/ID/export``."""
    return [
        Route("/runs/{run_id}/log.txt", _log, methods=["GET"]),
        Route("/runs/{run_id}/metrics.csv", _metrics, methods=["GET"]),
        Route("/runs/{run_id}/export", _export, methods=["GET"]),
    ]


def _log(request: Request) -> Response:
    try:
        run = Run.open(request.path_params["run_id"])
    except StudioError as error:
        return PlainTextResponse(str(error), 404)
    if run.log_path.is_symlink():
        return PlainTextResponse("The log is a link to another file.", 404)
    return _attachment(_bytes(run.log_path), f"{run.id}-log.txt", "text/plain; charset=utf-8")


def _metrics(request: Request) -> Response:
    try:
        run = Run.open(request.path_params["run_id"])
    except StudioError as error:
        return PlainTextResponse(str(error), 404)
    return _attachment(metrics_csv(Reader(run).wait()), f"{run.id}-metrics.csv", "text/csv; charset=utf-8")


def _export(request: Request) -> Response:
    """What the run's last export has made, where that is one file."""
    try:
        run = Run.open(request.path_params["run_id"])
    except StudioError as error:
        return PlainTextResponse(str(error), 404)
    made = job.made_file(run, job.read(run))
    if made is None:
        return PlainTextResponse("There is no exported file.", 404)
    headers = {"x-content-type-options": "nosniff"}
    return FileResponse(made, media_type="application/octet-stream", filename=made.name, headers=headers)


def _bytes(path: Path) -> Iterator[bytes]:
    """The file as long as it is now; none if there is no file."""
    left = file_size(path)
    if not left:
        return
    with open_plain(path) as file:
        while left > 0 and (data := file.read(min(left, _PORTION_BYTES))):
            left -= len(data)
            yield data


def _attachment(parts: Iterator[bytes], name: str, kind: str) -> Response:
    headers = {"content-disposition": f'attachment; filename="{name}"', "x-content-type-options": "nosniff"}
    return StreamingResponse(parts, media_type=kind, headers=headers)
