"""Tile encoders and slide encoders: found, loaded, kept, described."""
