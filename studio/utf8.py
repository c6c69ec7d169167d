"""UTF-8 for file names, output and child processes, whatever the locale says.

In an ASCII locale (``LC_ALL=C`` with Python's own remedies switched off) Python can neither print a row nor open a file
whose name is not ASCII. Both are decided when the interpreter starts.
"""

from __future__ import annotations

import codecs
import os
import sys


def ensure_utf8() -> None:
    """Start this program again in Python's UTF-8 mode if its file names are in ASCII; child processes inherit it.

    Output that another encoding has no sign for is written as an escape instead of ending the program.
    """
    if _is_ascii(sys.getfilesystemencoding()) and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.environ.pop("PYTHONIOENCODING", None)
        os.execv(sys.executable, sys.orig_argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def writes_utf8(stream: object) -> bool:
    """Whether a stream takes any text as it is."""
    try:
        return codecs.lookup(getattr(stream, "encoding", None) or "ascii").name == "utf-8"
    except LookupError:
        return False


def _is_ascii(encoding: str) -> bool:
    return codecs.lookup(encoding).name == "ascii"
