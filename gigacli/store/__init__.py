"""The cohort store on disk: paths, dtypes, the write protocol, validation."""
