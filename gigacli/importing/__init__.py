"""The door in: tile features and slide vectors that other tools made become a cohort store."""
