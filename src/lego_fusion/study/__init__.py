"""Many trainings: comparisons and sweeps, cell by cell, resumable."""
