"""The Compare tab: base and tuned models side by side."""
