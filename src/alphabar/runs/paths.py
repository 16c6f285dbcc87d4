"""Paths as the user reads them, and paths that are not in use."""

from itertools import count
from pathlib import Path

from hydra.core.hydra_config import HydraConfig


def display_path(path: Path) -> str:
    """Returns the path as the user would type it, in the shell in which the command was started."""
    here = Path(HydraConfig.get().runtime.cwd) if HydraConfig.initialized() else Path.cwd()  # not where hydra.job.chdir went
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def unused_path(path: Path) -> Path:
    """Returns the path or, if it exists, the first of name_2, name_3, ... that does not, with the same suffix."""
    numbered = (path.with_name(f"{path.stem}_{number}{path.suffix}") for number in count(2))
    return path if not path.exists() else next(each for each in numbered if not each.exists())
