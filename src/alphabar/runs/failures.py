"""Failures that the processes of a run tell each other: the one that failed prints a line, the others end in silence."""

import hashlib
import os
import secrets
import shutil
import tempfile
from pathlib import Path

FOLDER = "ALPHABAR_ERRORS"  # the variable with the folder in which the processes of a run note what they have printed


def set_error_folder() -> bool:
    """Sets the variable FOLDER unless it is set, before other processes start; returns whether this process has set it."""
    if FOLDER in os.environ:
        return False
    os.environ[FOLDER] = str(Path(tempfile.gettempdir()) / f"alphabar-{os.getpid()}-{secrets.token_hex(4)}")
    return True


def remove_error_folder() -> None:
    """Deletes the folder and forgets it; for the process that has set it."""
    shutil.rmtree(os.environ.pop(FOLDER), ignore_errors=True)


def is_first_to_tell(line: str) -> bool:
    """Returns whether no other process of this run has printed the line, and notes that this process prints it."""
    is_alone = "LOCAL_RANK" not in os.environ and "ALPHABAR_RESULT" not in os.environ
    if is_alone:
        return True
    mark = Path(os.environ[FOLDER]) / hashlib.sha256(line.encode()).hexdigest()[:16]
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        with mark.open("x", encoding="utf-8") as file:
            file.write(line)
    except FileExistsError:
        return False
    except OSError:
        return True  # better twice than not at all
    return True


def is_told() -> bool:
    """Returns whether a process of this run has said why it failed or stopped."""
    folder = Path(os.environ[FOLDER])
    return folder.is_dir() and any(folder.iterdir())
