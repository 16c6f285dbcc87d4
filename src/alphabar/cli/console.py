"""The messages that a user sees on the terminal while a command runs."""

import logging
import sys
import warnings

from alphabar.runs.run_dir import is_first_process


class Stderr(logging.Handler):
    """Writes to the sys.stderr of the moment, which progress bars and tests exchange."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def configure_logging() -> None:
    """Shows the messages of alphabar on the first process of a run; hides Lightning's advertisements and harmless warnings."""
    own = logging.getLogger("alphabar")
    own.setLevel(logging.INFO if is_first_process() else logging.ERROR)
    if not own.handlers:
        handler = Stderr()
        handler.setFormatter(logging.Formatter("%(message)s"))
        own.addHandler(handler)
        own.propagate = False
    # Lightning sets the levels of its own loggers when it is imported, but not those of the loggers below them, which it writes to.
    for name in ("lightning.pytorch", "lightning.fabric"):
        for logger in (name, f"{name}.utilities.rank_zero", f"{name}.utilities.seed"):
            logging.getLogger(logger).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="You requested to overfit but enabled")  # ours is not shuffled then
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
    warnings.filterwarnings("ignore", message=".*number of training batches.*smaller than the logging interval.*")
