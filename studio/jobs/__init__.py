"""Work outside the page's process: which process does it, how far it is, and what its environment holds."""
