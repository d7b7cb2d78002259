"""Slides and tiles of a cohort: registration, discovery of slide files, the sample of tiles for MoCo."""
