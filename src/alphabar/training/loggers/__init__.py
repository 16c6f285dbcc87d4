"""Loggers: metrics.csv, Weights and Biases, TensorBoard."""
