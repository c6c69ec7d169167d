"""The Evaluate tab: scores of a run beside its base."""
