"""The record of a sweep, and the setting that it recommends."""
