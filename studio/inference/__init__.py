"""Streaming generation from base and tuned models, many at once from one copy of the weights.

Importing this package loads neither torch nor transformers; the first :meth:`Engine.open` does.
"""

from studio.inference.compare import compare
from studio.inference.engine import Engine, Handle
from studio.inference.stream import stream, stream_many
from studio.inference.types import Piece, Sampling, Target

__all__ = ["Engine", "Handle", "Piece", "Sampling", "Target", "compare", "generate_batch", "stream", "stream_many"]


def generate_batch(*arguments, **options) -> list[str]:
    """See :func:`studio.inference.batches.generate_batch`, which is loaded (with torch) at the first call."""
    from studio.inference.batches import generate_batch

    return generate_batch(*arguments, **options)
