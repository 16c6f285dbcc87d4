"""YAML files by group, for `hydra.searchpath=[pkg://mylab.conf]`."""
