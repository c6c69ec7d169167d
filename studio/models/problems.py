"""What goes wrong while a model is fetched or read, in plain words."""

from __future__ import annotations

import errno
from pathlib import Path

from studio.errors import StudioError


def disk_problem(error: OSError, where: Path) -> StudioError:
    """The message for an ``OSError`` of the file system at ``where``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StudioError(
            f"The disk is full: {where} could not be written.",
            "Free some space, or set STUDIO_HOME to a folder on a larger disk, and start again.",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StudioError(
            f"{where} cannot be written: {error.strerror}.", "Set STUDIO_HOME to a folder you can write to."
        )
    return StudioError(f"{where} could not be read or written: {error}.", "Check the disk, and start again.")


def is_connection_problem(error: Exception) -> bool:
    """Whether the network or the Hub failed, rather than the request being wrong."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import get_session

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    client_errors = type(get_session()).__module__.split(".")[0]  # httpx or its successor
    return isinstance(error, (OfflineModeIsEnabled, ConnectionError, TimeoutError)) or (
        type(error).__module__.split(".")[0] == client_errors
    )


def no_network(model_id: str) -> StudioError:
    """The message where a model is neither on the disk nor to be had."""
    return StudioError(
        f"The Hugging Face Hub does not answer, and {model_id} is not on this disk.",
        "Check the network (and HF_ENDPOINT, if you set it), or use builtin/smollm2-135m-instruct or a local folder.",
        field="model.id",
    )


def explain(error: Exception, model_id: str, revision: str | None) -> StudioError:
    """A plain message for what the Hub's client raised."""
    from huggingface_hub import errors

    log_in = "set HF_TOKEN or log in with `hf auth login`"
    if isinstance(error, errors.GatedRepoError):
        return StudioError(
            f"{model_id} is gated: its owners give access on request.",
            f"Accept the licence on the model's page, then {log_in}, and start again.",
            field="model.id",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return StudioError(
            f"{model_id} has no revision {revision!r}.",
            "Take a branch, tag or commit from the model's page, or leave the revision empty.",
            field="model.revision",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return StudioError(
            f"The Hub has no model {model_id}, or it is private.",
            f"Check the spelling (owner/name); for a private model, {log_in}.",
            field="model.id",
        )
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
    if status in (401, 403):
        return StudioError(
            f"The Hub refuses access to {model_id} ({status}).",
            f"Your token is wrong or has no right to read this model: {log_in}.",
            field="model.id",
        )
    if is_connection_problem(error):
        if status:
            return StudioError(
                f"The Hub failed while serving {model_id} ({status}).",
                "Start again in a while; what is already here is kept.",
            )
        return StudioError(
            f"The connection to the Hub broke while fetching {model_id}.",
            "Start again; the download goes on from where it stopped.",
        )
    if status:
        return StudioError(f"The Hub answered {status} for {model_id}.", "Start again in a while.")
    if isinstance(error, OSError) and error.errno is not None:
        return disk_problem(error, Path(error.filename or "the workspace"))
    if isinstance(error, OSError):
        return StudioError(
            f"A file of {model_id} arrived incomplete.", "Start again; the download goes on from where it stopped."
        )
    raise error
