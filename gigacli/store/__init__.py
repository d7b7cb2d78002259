"""What is on disk: paths, dtypes, the write protocol, validation."""
