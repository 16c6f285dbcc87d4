"""Failures that the processes of a run tell each other: the one that failed prints a line, the others end in silence."""

import hashlib
import os
import re
import secrets
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

FOLDER = "ALPHABAR_ERRORS"  # the variable with the folder in which the processes of a run note what they have printed
FOLDER_NAME = re.compile(r"alphabar-(\d{1,9})-[0-9a-f]{8}")  # with the number of the process that has set it


def set_error_folder() -> None:
    """Sets the variable FOLDER unless it is set, before other processes start, and deletes what killed ones have left."""
    if FOLDER in os.environ:
        return
    folder = Path(tempfile.gettempdir())
    os.environ[FOLDER] = str(folder / f"alphabar-{os.getpid()}-{secrets.token_hex(4)}")
    remove_abandoned_folders(folder)


def remove_error_folder() -> None:
    """Deletes the folder and forgets it, if this process has set it."""
    path = Path(os.environ.get(FOLDER, ""))
    if (name := FOLDER_NAME.fullmatch(path.name)) is not None and int(name[1]) == os.getpid():
        del os.environ[FOLDER]
        shutil.rmtree(path, ignore_errors=True)


def remove_abandoned_folders(folder: Path) -> None:
    """Deletes the error folders of this user's processes that are gone: they were killed before they could do it."""
    with suppress(OSError), os.scandir(folder) as entries:
        found = [(entry, name) for entry in entries if (name := FOLDER_NAME.fullmatch(entry.name)) is not None]
        for entry, name in found:
            if entry.stat(follow_symlinks=False).st_uid == os.geteuid() and not is_running(int(name[1])):
                shutil.rmtree(entry.path, ignore_errors=True)


def is_running(process: int) -> bool:
    """Returns whether there is a process with this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


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
