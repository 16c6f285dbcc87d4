"""From an `ImageSet` to batches: the order of the images, and the loader that hands them out."""
