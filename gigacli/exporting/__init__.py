"""Exports: results of a store as files that other tools read."""
