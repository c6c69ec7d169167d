"""The Data tab: the dataset and its rows as the trainer sees them."""
