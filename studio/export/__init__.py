"""What a person does with a tuned model when they ship it; every export is read back before it counts."""

from studio.export.kinds import KINDS, Exported, Options, refusal
from studio.export.make import export

__all__ = ["KINDS", "Exported", "Options", "export", "refusal"]
