"""Slides: pixels, resolution, tissue, grid."""
