"""The Method tab: what is trained and how."""
