"""The Model tab: the base model."""
