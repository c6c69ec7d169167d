"""The recipe: all settings of a training run as one typed object, used by the form, the file and the command line.

``sections`` and ``methods`` declare the settings, ``recipe`` reads, checks and writes them.
"""

from studio.recipe.methods import METHODS
from studio.recipe.recipe import MOST_PROBLEMS, Recipe, shipped
from studio.recipe.sections import (
    CHAT_TEMPLATES,
    ENCODER_SETTINGS,
    SECTIONS,
    DataSpec,
    Format,
    MixSpec,
    ModelSpec,
    Resolved,
    SourceSpec,
    TrainSpec,
    is_inline,
    is_template_file,
)
from studio.recipe.settings import bounds

__all__ = [
    "CHAT_TEMPLATES",
    "ENCODER_SETTINGS",
    "METHODS",
    "MOST_PROBLEMS",
    "SECTIONS",
    "DataSpec",
    "Format",
    "MixSpec",
    "ModelSpec",
    "Recipe",
    "Resolved",
    "SourceSpec",
    "TrainSpec",
    "bounds",
    "is_inline",
    "is_template_file",
    "shipped",
]
