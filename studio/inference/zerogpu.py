"""Generation on a Hugging Face Space with ZeroGPU, where a GPU is there only inside a call of ``spaces.GPU``.

Such a call runs in a process of its own, forked from this one: what goes in and comes out are plain values, models are
opened in there, and a stop is a file.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from studio.inference.engine import Engine
from studio.inference.stream import stream_many
from studio.inference.types import Piece, Sampling, Target

_SECONDS = 120  # of a GPU, asked for at each call

Answering = Callable[
    [Sequence[Target], Sequence[list[dict]], Sequence[Sampling], Sequence[threading.Event]],
    Iterator[tuple[int, Piece]],
]


def on_zero_gpu() -> bool:
    """Whether this is a Space with ZeroGPU and the package that goes with it."""
    return bool(os.environ.get("SPACES_ZERO_GPU")) and importlib.util.find_spec("spaces") is not None


def answering(engine: Engine) -> Answering:
    """What :func:`stream_many` does, inside ``spaces.GPU``. Call it once, at the start: the Space looks for it there.

    Args:
        engine: has opened nothing yet; the forked process opens models with its own copy of it.
    """
    import spaces

    @spaces.GPU(duration=_SECONDS)
    def answer(
        targets: list[Target], messages: list[list[dict]], samplings: list[Sampling], stop_files: list[str]
    ) -> Iterator[tuple[int, Piece]]:
        stops = [_FileStop(Path(name)) for name in stop_files]
        handles = [lambda target=target: engine.open(target) for target in targets]
        yield from stream_many(handles, messages, samplings, stops)

    def stream(
        targets: Sequence[Target],
        messages: Sequence[list[dict]],
        samplings: Sequence[Sampling],
        stops: Sequence[threading.Event],
    ) -> Iterator[tuple[int, Piece]]:
        with tempfile.TemporaryDirectory(prefix="sft-stops-") as folder:
            files = [Path(folder) / str(number) for number in range(len(stops))]
            for file, stop in zip(files, stops, strict=True):
                if stop.is_set():
                    file.touch()
            names = [str(file) for file in files]
            for told in answer(list(targets), list(messages), list(samplings), names):
                for file, stop in zip(files, stops, strict=True):
                    if stop.is_set():
                        file.touch()
                yield told

    return stream


class _FileStop(threading.Event):
    """Set where the file is there, or the folder that it would be in is gone."""

    def __init__(self, path: Path):
        super().__init__()
        self._path = path

    def is_set(self) -> bool:
        return self._path.exists() or not self._path.parent.exists()
