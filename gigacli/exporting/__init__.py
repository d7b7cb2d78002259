"""The doors out of a store: its results as files that other tools read."""
