"""A synthetic cohort to try everything on, without data and without a network."""
