"""Loggers: metrics.csv, Weights and Biases, TensorBoard, MLflow, and any logger of Lightning by its name."""
