"""Lightning and Hydra: the only part that knows about configuration, devices, files and the command line.

Reading order: `cli` (a command line becomes a configuration), `config` (a configuration becomes objects), `run` (a training run),
`module` (the training step), then `data`, `callbacks`, `metrics`, `loggers` and `reports`.
"""
