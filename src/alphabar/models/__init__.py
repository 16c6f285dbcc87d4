"""Networks and the frozen parts around them: torch, never Lightning or Hydra."""
