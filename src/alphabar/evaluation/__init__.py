"""What `evaluate.py` does: `subjects` says which images are judged, `judge` collects figures of them, `receipt` writes down the
figures with all that they depend on, and `compare` puts receipts side by side where that makes sense."""
