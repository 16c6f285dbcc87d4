"""Composition: from the overrides of a command line to a checked configuration."""
