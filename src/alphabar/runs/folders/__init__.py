"""The folder of a run: its path, its owner, and what may be written through it."""
