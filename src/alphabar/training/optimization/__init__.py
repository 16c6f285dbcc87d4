"""The optimizers and the learning rate of a run."""
