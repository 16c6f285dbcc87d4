"""Checkpoint files: what they contain, which ones a run keeps, and what of a checkpoint is restored."""
