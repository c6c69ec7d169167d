"""Answers as they are written: one, or several side by side."""

from __future__ import annotations

import functools
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from studio.errors import StudioError
from studio.inference.engine import Handle
from studio.inference.types import Piece, Sampling

log = logging.getLogger(__name__)


def stream(
    handle: Handle, messages: list[dict], sampling: Sampling, stop: threading.Event | None = None
) -> Iterator[Piece]:
    """The answer to a conversation, piece by piece; the last piece says how it ended.

    Args:
        messages: dicts with ``role`` and ``content``; the answer continues them.
        stop: set it to end the answer after the token in work. Closing the iterator does the same.

    Raises:
        StudioError: the chat template refuses the conversation, it does not fit the context, or memory ran out.
    """
    for _, piece in stream_many([handle], [messages], sampling, stop):
        if piece.error:
            raise piece.error
        yield piece


def stream_many(
    handles: Sequence[Handle | Callable[[], Handle]],
    messages_per_handle: Sequence[list[dict]],
    sampling: Sampling | Sequence[Sampling],
    stop: threading.Event | Sequence[threading.Event] | None = None,
) -> Iterator[tuple[int, Piece]]:
    """Several answers at once, as (number of the handle, piece) in the order in which they are written.

    Every answer has a thread; those that share weights take turns token by token. An answer that fails ends with a
    piece that has ``error`` set, and the others go on. When the iterator is closed all threads end within a token;
    closing does not wait for that.

    Args:
        handles: opened models, or what opens one: it is called in the answer's thread, so that a model that takes long
            or cannot be opened holds nobody up. An empty piece says that it is open.
        messages_per_handle: a conversation for each handle.
        sampling: one for all answers, or one for each.
        stop: set it to end all answers after the token in work; or one for each answer.
    """
    assert len(handles) == len(messages_per_handle), "one conversation for each handle"
    samplings = [sampling] * len(handles) if isinstance(sampling, Sampling) else list(sampling)
    stops = [stop] * len(handles) if stop is None or isinstance(stop, threading.Event) else list(stop)
    pieces: queue.SimpleQueue[tuple[int, Piece]] = queue.SimpleQueue()
    closed = threading.Event()

    def work(number: int) -> None:
        own, handle = stops[number], handles[number]

        def stopped() -> bool:
            return closed.is_set() or (own is not None and own.is_set())

        try:
            if callable(handle):
                if stopped():
                    pieces.put((number, Piece("", 0, 0.0, finished="stopped")))
                    return
                handle = handle()
                pieces.put((number, Piece("", 0, 0.0)))
            from studio.inference.generate import generate_streaming

            emit = functools.partial(_put, pieces, number)
            generate_streaming(handle, messages_per_handle[number], samplings[number], stopped, emit)
        except StudioError as error:
            pieces.put((number, Piece("", 0, 0.0, finished="failed", error=error)))
        except Exception as error:  # the thread's edge: the pane shows it, the log has the traceback
            log.exception("Generation failed")
            what = f"Generation failed: {type(error).__name__}: {str(error)[:300]}"
            wrapped = StudioError(what, "Look into the log for details.")
            wrapped.__cause__ = error
            pieces.put((number, Piece("", 0, 0.0, finished="failed", error=wrapped)))

    threads = [threading.Thread(target=work, args=(i,), name=f"pane-{i}", daemon=True) for i in range(len(handles))]
    try:
        for thread in threads:
            thread.start()
        going = len(threads)
        while going:
            number, piece = pieces.get()
            going -= piece.finished is not None
            yield number, piece
    finally:
        closed.set()


def _put(pieces: queue.SimpleQueue, number: int, piece: Piece) -> None:
    pieces.put((number, piece))
