"""The worker: one recipe in, one run folder out. Knows nothing of any user interface."""

from studio.training.worker import train

__all__ = ["exit_code", "train"]


def exit_code(kind: str) -> int:
    """The worker's exit code for the way in which a run ended: 0 unless it failed."""
    return 0 if kind in ("finished", "stopped", "paused") else 1
