"""Where figures and pictures of a run go, beside its folder."""
