"""Which slides and tiles a cohort has: registration, discovery of slide files, the sample of tiles for MoCo."""
