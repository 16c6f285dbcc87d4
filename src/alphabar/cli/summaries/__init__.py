"""The summaries that commands print at their end."""
