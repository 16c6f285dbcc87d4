"""What the user sees while something runs."""

import logging
import sys
import warnings
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from alphabar.runs.run_dir import is_first


class Stderr(logging.Handler):
    """Writes to whatever sys.stderr is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def quiet() -> None:
    """Shows our own lines, on the first process; keeps off Lightning's advertisements and warnings of what is done on purpose."""
    own = logging.getLogger("alphabar")
    own.setLevel(logging.INFO if is_first() else logging.ERROR)
    if not own.handlers:
        handler = Stderr()
        handler.setFormatter(logging.Formatter("%(message)s"))
        own.addHandler(handler)
        own.propagate = False
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="You requested to overfit but enabled")  # ours is not shuffled then
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
    warnings.filterwarnings("ignore", message=".*number of training batches.*smaller than the logging interval.*")


def shown(path: Path) -> str:
    """Returns the path as the user would type it, in the shell in which the command was started."""
    here = Path(HydraConfig.get().runtime.cwd) if HydraConfig.initialized() else Path.cwd()  # not where hydra.job.chdir went
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
