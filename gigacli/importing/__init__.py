"""Imports: tile features and slide vectors of other tools become a cohort store."""
