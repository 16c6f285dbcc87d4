"""The outcome of a command: its exit status, the lines that it prints, and the result that it writes for its parent process."""

import errno
import hashlib
import json
import os
import secrets
import sys
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphabar.config.build import first_line
from alphabar.errors import UserError, printable
from alphabar.files.atomic import WriteError, write_text
from alphabar.files.paths import display_path
from alphabar.runs.run_dir import is_first_process

BAD_INPUT, CTRL_C, TERMINATED = 2, 130, 143
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


def outcome_of(error: BaseException) -> Outcome:
    """Returns the outcome of a command that an exception ended."""
    # Lightning turns Ctrl-C into exit(1).
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return Outcome("stopped", CTRL_C, ("stopped by Ctrl-C",))
    if type(error).__name__ == "SIGTERMException":  # Lightning's, whose own exit code is 0
        return Outcome("stopped", TERMINATED, ("stopped by SIGTERM",))
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        state = "stopped" if code > 128 else "failed"
        return Outcome(state, code, (error.code,) if isinstance(error.code, str) else ()) if code else FINISHED
    if lines := user_error_lines(error):
        return Outcome("failed", BAD_INPUT, lines)
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
    return ()


def describe_os_error(error: OSError) -> str:
    """Returns the message of the error: the name of the file, if it has one, and the reason."""
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else first_line(error)


def set_error_folder() -> None:
    """Sets the variable with the folder in which the processes of a run note printed errors; to be called before others start."""
    name = f"alphabar-{os.getpid()}-{secrets.token_hex(4)}"
    os.environ.setdefault("ALPHABAR_ERRORS", str(Path(tempfile.gettempdir()) / name))


def print_outcome(outcome: Outcome) -> None:
    """Prints each line on stderr, unless another process of this run has printed it already."""
    sys.stdout.flush()
    for line in outcome.lines:
        if _is_new(line):
            print(printable(line if outcome.state == "stopped" else f"error: {line}"), file=sys.stderr, flush=True)


def _is_new(line: str) -> bool:
    """Returns whether no other process of this run has printed the line, and notes that this process prints it."""
    is_alone = "LOCAL_RANK" not in os.environ and "ALPHABAR_RESULT" not in os.environ
    if is_alone:
        return True
    mark = Path(os.environ["ALPHABAR_ERRORS"]) / hashlib.sha256(line.encode()).hexdigest()[:16]
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        with mark.open("x", encoding="utf-8") as file:
            file.write(line)
    except FileExistsError:
        return False
    except OSError:
        return True  # better twice than not at all
    return True


def write_result(outcome: Outcome, result: Mapping[str, Any], error: BaseException | None) -> None:
    """Writes the outcome and the result for the parent process that asked for them; only the first process of a run does."""
    path = os.environ.get("ALPHABAR_RESULT")
    if path is None or not is_first_process():
        return
    content: dict[str, Any] = {"state": outcome.state, **result}
    if outcome != FINISHED:
        content["error"] = " | ".join(outcome.lines) or f"exit code {outcome.code}"
    if error is not None and outcome.is_bug:
        content["traceback"] = "".join(traceback.format_exception(error))
    write_text(Path(path), json.dumps(content, default=str))
