"""The Runs tab: one run, live or finished."""
