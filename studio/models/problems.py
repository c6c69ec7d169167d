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
