"""The messages that a user sees on the terminal while a command runs."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from alphabar.errors import printable, printable_lines, traceback_of
from alphabar.runs.folders.run_dir import is_first_process

# Lightning sets the levels of its own loggers when it is imported, but not those of the loggers below them, which it writes to.
LIGHTNING_LOGGERS = tuple(
    f"{package}{logger}"
    for package in ("lightning.pytorch", "lightning.fabric")
    for logger in ("", ".utilities.rank_zero", ".utilities.seed")
)
STOCK_CALLBACKS = "lightning.pytorch.callbacks"  # whose messages are what they were added for


class Stderr(logging.Handler):
    """Writes to the current sys.stderr, which progress bars and tests replace."""

    def emit(self, record: logging.LogRecord) -> None:
        show = printable if record.exc_info is None else printable_lines
        print(show(self.format(record)), file=sys.stderr, flush=True)


def print_exception(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    """Prints an unforeseen error with its traceback, in the place of `sys.excepthook`."""
    print(printable_lines(traceback_of(error)), file=sys.stderr, flush=True)


def format_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """Returns the text of a warning, as `warnings.formatwarning` does."""
    return _format_warning(printable(str(message)), category, filename, lineno, line)


_format_warning = warnings.formatwarning


def configure_logging() -> None:
    """Shows the messages of alphabar on the first process of a run; hides Lightning's advertisements and harmless warnings.

    Control characters, which names from files may contain, are removed from messages, warnings and tracebacks.
    """
    sys.excepthook, warnings.formatwarning = print_exception, format_warning
    own = logging.getLogger("alphabar")
    own.setLevel(logging.INFO if is_first_process() else logging.ERROR)
    if not own.handlers:
        handler = Stderr()
        handler.setFormatter(logging.Formatter("%(message)s"))
        own.addHandler(handler)
        own.propagate = False
    for name in LIGHTNING_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger(STOCK_CALLBACKS).setLevel(logging.INFO)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="You requested to overfit but enabled")  # ours is not shuffled then
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # in a resumed run
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
    warnings.filterwarnings("ignore", message=".*number of training batches.*smaller than the logging interval.*")


@contextmanager
def messages_shown() -> Iterator[None]:
    """Shows messages as `configure_logging` does inside the context; afterwards logging and warnings are as before."""
    own = logging.getLogger("alphabar")
    before = (list(own.handlers), own.propagate, sys.excepthook, warnings.formatwarning)
    levels = {logger: logger.level for logger in map(logging.getLogger, ("alphabar", STOCK_CALLBACKS, *LIGHTNING_LOGGERS))}
    with warnings.catch_warnings():
        configure_logging()
        try:
            yield
        finally:
            own.handlers[:], own.propagate, sys.excepthook, warnings.formatwarning = before
            for logger, level in levels.items():
                logger.setLevel(level)
