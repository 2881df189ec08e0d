"""A run's network as one file that needs no run directory, checked before it is given out."""
