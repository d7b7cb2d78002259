"""Reports: a page about a whole cohort, and a map of what the tiles of one slide do to its score."""
