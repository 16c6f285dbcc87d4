"""This folder keeps the weights of a run sound: it tests that they are finite, records skipped steps, and leads a run back."""
