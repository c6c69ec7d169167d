"""Files of a run folder as the worker wrote them: a link in their place may point anywhere, and is not read."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO


def open_plain(path: Path) -> BinaryIO:
    """Open a file to be read; a symbolic link counts as no file.

    Raises:
        FileNotFoundError: there is no file, or a link in its place.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise FileNotFoundError(errno.ENOENT, "a link", str(path)) from error
        raise
    return os.fdopen(descriptor, "rb")
