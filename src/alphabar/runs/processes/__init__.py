"""The processes of a run: what they say to each other, and how they end together."""
