"""Environments of child processes: without tokens and keys, except those that a process needs.

Workers, previews and checks read models and datasets that come from strangers. What is not in their environment cannot
be read there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH")
"""What reads and writes on the Hugging Face Hub."""
TRACKER_KEYS = {
    "none": (),
    "tensorboard": (),
    "trackio": ("TRACKIO_API_KEY", *HUB_TOKENS),
    "wandb": ("WANDB_API_KEY",),
}
"""What each value of ``train.report_to`` needs."""

_SECRET = re.compile(
    r"(^|_)(TOKENS?|PASSWD|PASSPHRASE|CREDENTIALS?|KEYS?|COOKIES?|AUTH)(_|$)|APIKEY|SECRET|PASSWORD",
    re.IGNORECASE,
)
_HARMLESS = {"HF_HUB_DISABLE_IMPLICIT_TOKEN"}  # switches, whose names only sound like a secret


def is_secret(name: str) -> bool:
    """Whether the name of an environment variable says that it holds a token, a key or a password."""
    return name not in _HARMLESS and _SECRET.search(name) is not None


def without_secrets(needed: Iterable[str] = ()) -> dict[str, str]:
    """This process's environment without secrets.

    Args:
        needed: names of secrets that the child process does need.
    """
    kept = set(needed)
    return {name: value for name, value in os.environ.items() if name in kept or not is_secret(name)}
