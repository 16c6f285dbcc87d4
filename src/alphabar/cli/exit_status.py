"""The outcome of a command: its exit status, the lines that it prints, and the result that it writes for its parent process."""

import errno
import json
import os
import re
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alphabar.config.build import first_line
from alphabar.errors import UserError, printable, traceback_of
from alphabar.files.atomic import WriteError, write_text
from alphabar.files.paths import display_path
from alphabar.runs.folders.run_dir import RANKS, is_first_process
from alphabar.runs.processes.failures import is_first_to_tell, is_told
from alphabar.runs.processes.ranks import failed_rank

BAD_INPUT, CTRL_C = 2, 130
LOST = re.compile(r"Connection (closed|reset|refused)|Broken pipe|connection was closed|Socket closed|[Gg]loo|NCCL")
# The out-of-memory messages of torch, on the CPU and on GPUs, and of NumPy, with the size of the allocation.
NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|Storage size calculation overflowed|array is too big"
)
ASKED = re.compile(r"allocate (?P<text>[\d.]+ ?[KMGTPE]iB)|allocate (?P<bytes>\d+) bytes")
WRITE_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a command.

    state: "finished", "failed" or "stopped". lines: the lines to print on stderr. is_bug: whether the error was unforeseen.
    """

    state: str
    code: int
    lines: tuple[str, ...] = ()
    is_bug: bool = False


FINISHED = Outcome("finished", 0)


@dataclass
class CommandResult:
    """The values that `main` returned, and the error that ended the command, if one did.

    An error of `main` does not pass through Hydra, which would print it in its own format.
    """

    values: dict[str, Any] = field(default_factory=dict)
    error: BaseException | None = None


def outcome_of(error: BaseException) -> Outcome:
    """Returns the outcome of a command that an exception ended."""
    # Lightning turns Ctrl-C into exit(1).
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return Outcome("stopped", CTRL_C, ("stopped by Ctrl-C",))
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if code - 128 in set(signal.Signals):
            name = signal.Signals(code - 128).name
            return Outcome("stopped", code, () if name == "SIGPIPE" else (f"stopped by {name}",))
        return Outcome("failed", code, (error.code,) if isinstance(error.code, str) else ()) if code else FINISHED
    if lines := user_error_lines(error):
        return Outcome("failed", BAD_INPUT, lines)
    if (line := dead_worker_line(error)) is not None:
        return Outcome("failed", 1, (line,))
    if is_lost_connection(error):
        return outcome_of_lost_connection()
    return Outcome("failed", 1, (f"{type(error).__name__}: {first_line(error)}",), is_bug=True)


def user_error_lines(error: BaseException) -> tuple[str, ...]:
    """Returns the lines that explain an error which the user can correct; none for a bug."""
    if isinstance(error, UserError):
        return tuple(line for line in str(error).splitlines() if line.strip())
    if type(error).__name__ == "MisconfigurationException":
        return (" ".join(str(error).split()),)
    if isinstance(error, WriteError):
        return (f"cannot write {display_path(error.filename)}: {error.strerror}",)
    if isinstance(error, OSError) and error.errno in WRITE_ERRORS:
        return (describe_os_error(error),)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError | ValueError) and NO_MEMORY.search(str(error))):
        return (no_memory_line(str(error)),)
    return ()


def no_memory_line(message: str) -> str:
    """Returns the message for an out-of-memory error of the machine or its GPU, with the size of the allocation if it is known."""
    asked = ASKED.search(message)
    size = "" if asked is None else asked["text"] or f"{int(asked['bytes']) / 2**30:,.1f} GiB"
    device = "of the GPU " if "CUDA" in message or "MPS" in message else ""
    return (
        f"not enough memory {device}{f'for {size} at once' if size else 'for what was asked'}: smaller images (data.resolution), "
        "batches (data.batch_size, batch_size) or networks (network=...) take less"
    )


def dead_worker_line(error: BaseException) -> str | None:
    """Returns the message for a DataLoader worker that was killed, for which torch has several errors; None for other errors."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, RuntimeError) and str(link).startswith("DataLoader worker (pid"):
            what = first_line(link).removeprefix("DataLoader worker ").rstrip(". ")
            return f"data: a process that decodes images died {what}; fewer of them take less memory: data.num_workers=0"
        link = link.__cause__ or link.__context__
    return None


def is_lost_connection(error: BaseException) -> bool:
    """Returns whether the error is the lost connection to another process of the run, which has ended."""
    is_of_collective = type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError")
    is_one_of_several = not os.environ.keys().isdisjoint(RANKS)
    return is_one_of_several and isinstance(error, RuntimeError) and (is_of_collective or LOST.search(str(error)) is not None)


def outcome_of_lost_connection() -> Outcome:
    """Returns the outcome of a process whose connection to another one is lost: silent if the other has said why."""
    failed = failed_rank()
    if is_told():
        return Outcome("failed", failed.exit_code if failed else 1)
    return Outcome("failed", 1, (str(failed) if failed else "lost the connection to another process of the run",))


def describe_os_error(error: OSError) -> str:
    """Returns the message of the error: the name of the file, if it has one, and the reason."""
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else first_line(error)


def print_outcome(outcome: Outcome) -> None:
    """Prints each line on stderr, unless another process of this run has printed it already."""
    sys.stdout.flush()
    for line in outcome.lines:
        if is_first_to_tell(line):
            print(printable(line if outcome.state == "stopped" else f"error: {line}"), file=sys.stderr, flush=True)


def write_result(outcome: Outcome, result: Mapping[str, Any], error: BaseException | None) -> None:
    """Writes the outcome and the result for the parent process that asked for them; only the first process of a run does."""
    path = os.environ.get("ALPHABAR_RESULT")
    if path is None or not is_first_process():
        return
    content: dict[str, Any] = {"state": outcome.state, **result}
    if outcome != FINISHED:
        content["error"] = " | ".join(outcome.lines) or f"exit code {outcome.code}"
    if error is not None and outcome.is_bug:
        content["traceback"] = traceback_of(error)
    write_text(Path(path), json.dumps(content, default=str))
