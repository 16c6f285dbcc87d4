"""Files and folders that are replaced as a whole: a concurrent reader finds the old content or the new one."""

import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Opens a new file beside `path` and, unless an error is raised inside, flushes it to the disk and renames it to `path`.

    The rename is atomic on POSIX and on Windows: after a crash at any moment `path` holds the old content or the new one. After an
    error the temporary file is deleted and `path` is as it was. The folder has to exist. Raises OSError as writing a file does.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    file = temporary.open("xb")
    try:
        yield file
        file.flush()
        os.fsync(file.fileno())
        file.close()
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):  # closing flushes again what a full disk did not take
            file.close()
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path` as UTF-8, atomically (see `atomic_writer`)."""
    with atomic_writer(path) as file:
        file.write(text.encode())


def remove_leftovers(path: Path) -> None:
    """Deletes temporary files of processes that were killed in `atomic_writer(path)`; no other process may be writing `path`."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink()


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder to write into, which replaces `folder` at the end, unless an error is raised inside.

    A concurrent reader finds a complete folder, the new one or the old one, or none.
    """
    partial, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{state}") for state in ("partial", "old"))
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            os.replace(folder, old)
        os.replace(partial, folder)
    finally:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        for path in (partial, old):
            shutil.rmtree(path, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Flushes the entries of a folder to the disk, on systems and file systems that can do that."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
