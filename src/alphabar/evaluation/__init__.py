"""The evaluation of images, as `evaluate.py` runs it.

`images_under_test` provides the images, `reference_statistics` and `measurement` compute their figures, `receipt` writes the
figures with everything that they depend on, and `compare` puts receipts side by side. Nothing here prints: `cli` does."""
