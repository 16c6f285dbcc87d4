"""Training: the LightningModules, weight averages, callbacks, loggers, and one run from its configuration to its result."""
