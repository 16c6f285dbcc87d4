"""HTML pages of runs and sweeps, made from their files alone."""
