"""Whether the Hugging Face Hub answers, asked once for a while and never for longer than three seconds."""

from __future__ import annotations

import os
import time
from functools import lru_cache

TIMEOUT_SECONDS = 3.0


def endpoint() -> str:
    """The Hub's address: ``HF_ENDPOINT``, or the public one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """Whether the user has switched the Hub off with ``HF_HUB_OFFLINE``."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def answers() -> bool:
    """Whether the Hub answers at all; remembered for half a minute. Costs at most three seconds."""
    return not offline() and _probe(endpoint(), int(time.monotonic() // 30))


@lru_cache(maxsize=8)
def _probe(address: str, window: int) -> bool:
    import threading

    import httpx

    answered = threading.Event()

    def ask() -> None:
        try:
            httpx.head(address, timeout=TIMEOUT_SECONDS)
        except httpx.HTTPError:
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT_SECONDS)  # name look-ups do not obey httpx's timeout
    return answered.is_set()
