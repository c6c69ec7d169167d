"""The worker: one recipe in, one run folder out. Knows nothing of any user interface."""

from studio.training.worker import train

__all__ = ["train"]
