"""How good a model is on rows that it was not trained on: metrics, and the scoring of a run against its base.

Importing this package loads neither torch nor transformers.
"""

from studio.evaluation.metrics import exact_match, mean, perplexity
from studio.evaluation.scoring import evaluate

__all__ = ["evaluate", "exact_match", "mean", "perplexity"]
