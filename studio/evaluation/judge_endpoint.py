"""Ask a judge behind an OpenAI-compatible endpoint, and try again where that can help."""

from __future__ import annotations

import email.utils
import json
import os
import time
from collections.abc import Callable
from typing import Any

from studio.errors import StudioError

_SECONDS = 120.0
_WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds before the second and each later try
_LONGEST_WAIT = 60.0  # that an endpoint may ask for
_MOST_BYTES = 4_000_000  # of a reply
_PASSING = (408, 409, 425, 429)  # and all from 500 on: the same request may be answered later


class _NoReply(Exception):
    """A try that failed. ``wait`` is how many seconds the endpoint asks for; ``again`` whether to try again."""

    def __init__(self, what: str, again: bool = True, wait: float | None = None):
        super().__init__(what)
        self.again, self.wait = again, wait


def endpoint(
    url: str,
    model: str,
    *,
    key_variable: str = "JUDGE_API_KEY",
    waits: tuple[float, ...] = _WAITS,
    sleep: Callable[[float], None] = time.sleep,
) -> Callable[[str], str]:
    """A judge behind an OpenAI-compatible endpoint; the key is read from an environment variable and kept nowhere.

    A request that times out, that nobody answers, or that is answered with a status that may pass (429, 5xx) is sent
    again after each of ``waits``, or after what ``Retry-After`` says.

    Args:
        url: up to and with ``/v1``.

    Raises:
        StudioError: the address (``judge-address``) or the key (``judge-key``) cannot be used; when asked: the key is
            refused (``judge-key``), nobody answers (``judge-unreachable``), no message comes (``judge-no-reply``).
    """
    import httpx

    address, shown = _address(url)
    key = (os.environ.get(key_variable) or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise StudioError(
            f"The key in {key_variable} has characters that no key has.", "Copy it again.", code="judge-key"
        )
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    reached = False

    def ask(text: str) -> str:
        nonlocal reached
        body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 512}
        for wait in (*waits, None):
            try:
                status, data, asked_wait = _post(address, body, headers)
                if status in (401, 403):
                    raise StudioError(
                        "The judge refuses the key.", f"Set {key_variable} to one that it takes.", code="judge-key"
                    )
                return _message(status, data, asked_wait)
            except httpx.HTTPError as error:
                problem = _NoReply(f"does not answer: {type(error).__name__}")
            except _NoReply as error:
                problem, reached = error, True
            if wait is None or not problem.again:
                break
            sleep(wait if problem.wait is None else problem.wait)
        raise StudioError(
            f"The judge at {shown} {problem}.",
            "Check the address (it ends with /v1) and the model's name, or try again later.",
            code="judge-no-reply" if reached else "judge-unreachable",
        )

    return ask


def _address(url: str) -> tuple[Any, str]:
    """The address of the chat completions, and the URL without a password in it.

    Raises:
        StudioError: it is no address.
    """
    import httpx

    try:
        parsed = httpx.URL(f"{url.strip().rstrip('/')}/chat/completions")
        shown = str(httpx.URL(url.strip()).copy_with(userinfo=b""))[:200]
        usable = parsed.scheme in ("http", "https") and bool(parsed.host) and (parsed.port or 1) in range(1, 65536)
    except (httpx.InvalidURL, ValueError, UnicodeError):
        usable = False
    if not usable:
        raise StudioError(
            "The judge's address is no web address.",
            "Write it like http://127.0.0.1:8000/v1; an IPv6 address stands in brackets: http://[::1]:8000/v1.",
            code="judge-address",
        )
    return parsed, shown


def _post(address: Any, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, bytes, float | None]:
    """Status, content and the wait that is asked for. A reply may be neither endless nor take for ever."""
    import httpx

    deadline = time.monotonic() + _SECONDS
    data = b""
    with httpx.stream("POST", address, json=body, headers=headers, timeout=_SECONDS, trust_env=False) as answer:
        for part in answer.iter_bytes():
            data += part
            if len(data) > _MOST_BYTES:
                raise _NoReply("sends more than a reply is long", again=False)
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout("the reply does not end")
    return answer.status_code, data, _retry_after(answer.headers.get("Retry-After"))


def _retry_after(value: str | None) -> float | None:
    """The seconds of a ``Retry-After`` header (a number, or a date), at most ``_LONGEST_WAIT``."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT) if seconds == seconds else None


def _message(status: int, data: bytes, wait: float | None) -> str:
    """The text of a reply.

    Raises:
        _NoReply: there is none.
    """
    if status >= 300:
        passing = status >= 500 or status in _PASSING
        raise _NoReply(f"answers with status {status} and no message", again=passing, wait=wait)
    try:
        content = json.loads(data)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise _NoReply(f"answers with status {status} and no message") from None
    if isinstance(content, list):  # parts of a message
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")
