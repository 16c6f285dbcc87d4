"""Paths as the user reads them."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig


def display_path(path: Path) -> str:
    """Returns the path as the user would type it, in the shell in which the command was started."""
    here = Path(HydraConfig.get().runtime.cwd) if HydraConfig.initialized() else Path.cwd()  # not where hydra.job.chdir went
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
