"""Files of a run folder as the worker wrote them: a link in their place may point anywhere, and is not read."""

from __future__ import annotations

import errno
import os
from io import FileIO
from pathlib import Path
from typing import BinaryIO


def open_unlinked(path: Path) -> BinaryIO:
    """Open a file to be read.

    Raises:
        OSError: it cannot be read, or there is a link in its place.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags), "rb")


def open_plain(path: Path) -> BinaryIO:
    """Open a file to be read; a symbolic link counts as no file.

    Raises:
        FileNotFoundError: there is no file, or a link in its place.
    """
    try:
        return open_unlinked(path)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise FileNotFoundError(errno.ENOENT, "a link", str(path)) from error
        raise


def append_plain(path: Path) -> FileIO:
    """Open a file to be appended to, unbuffered; it is made if there is none.

    Raises:
        OSError: there is a link in its place, or it cannot be written.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return FileIO(os.open(path, flags, 0o666), "ab")
