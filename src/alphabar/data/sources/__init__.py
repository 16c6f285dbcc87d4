"""The sources that `data=...` names, each with its data module."""
