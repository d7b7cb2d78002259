"""One verb per file: read the store, compute, write the store, return a summary."""
