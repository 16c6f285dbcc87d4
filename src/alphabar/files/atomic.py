"""Files and folders that are replaced as a whole: a concurrent reader finds the old content or the new one.

Nothing is written through a symbolic link: a link in the place of a file is replaced by the file.
"""

import errno
import io
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")  # see `temporary_path`
RUST_ERROR = re.compile(r"\(os error (\d+)\)")  # safetensors raises errors of its own


class WriteError(OSError):
    """A file or folder that cannot be written: its path and the reason, such as a full disk."""

    def __init__(self, path: Path, error: OSError) -> None:
        gone = error.errno == errno.ENOENT and not path.parent.is_dir()
        super().__init__(error.errno, "its folder is gone" if gone else error.strerror or str(error), str(path))


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raises WriteError, which names `path`, for an OSError inside; to be used where nothing but `path` is written or read."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(path, error) from error


class _Output(io.BufferedWriter):
    """A file that keeps the first error of writing, which torch.save and Pillow hide behind one of their own."""

    failure: OSError | None = None

    def write(self, content: "ReadableBuffer", /) -> int:
        try:
            return super().write(content)
        except OSError as error:
            self.failure = self.failure or error
            raise


def temporary_path(path: Path) -> Path:
    """Returns the path of a new file beside `path`, which is to be renamed to it; see `remove_temporaries`."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


@contextmanager
def atomic_writer(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """Opens a new file beside `path` and, unless an error is raised inside, flushes it to the disk and renames it to `path`.

    The rename is atomic on POSIX and on Windows: after a crash at any moment `path` holds the old content or the new one. After an
    error the temporary file is deleted and `path` is as it was. The folder has to exist. durable: False does not wait for the disk,
    for pictures of which there are many. Raises WriteError if the file cannot be written.
    """
    temporary = temporary_path(path)
    with write_errors(path):
        file = _Output(io.FileIO(temporary, "xb", opener=_open_no_link))
    try:
        try:
            yield file
        except Exception as error:
            if file.failure is not None:
                raise WriteError(path, file.failure) from error
            raise
        with write_errors(path):
            file.flush()
            if durable:
                os.fsync(file.fileno())
            file.close()
            os.replace(temporary, path)
            if durable:
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


@contextmanager
def changed_in_place(path: Path) -> Iterator[BinaryIO]:
    """Opens an existing file for reading and writing, such as a growing table. Raises WriteError if that fails, or for a link."""
    with write_errors(path), io.BufferedRandom(io.FileIO(path, "r+b", opener=_open_no_link)) as file:
        yield file


def make_folder(path: Path) -> Path:
    """Creates a folder, unless there is one, in a folder that exists, and returns it. Raises WriteError."""
    with write_errors(path):
        path.mkdir(exist_ok=True)
    return path


def remove_temporaries(folder: Path) -> None:
    """Deletes what processes that were killed in `atomic_writer` left in a folder and below; no process may be writing there."""
    for place, _, names in os.walk(folder):
        for name in filter(TEMPORARY.fullmatch, names):
            with suppress(OSError):  # it does no harm there
                os.unlink(os.path.join(place, name))


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder to write into, which replaces `folder` at the end, unless an error is raised inside.

    A concurrent reader finds a complete folder, the new one or the old one, or none. Raises WriteError if it cannot be written.
    """
    partial, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{state}") for state in ("partial", "old"))
    try:
        with write_errors(folder):
            partial.mkdir()
            yield partial
            if folder.exists():
                os.replace(folder, old)
            os.replace(partial, folder)
    except Exception as error:
        if (found := RUST_ERROR.search(str(error))) is not None:
            raise WriteError(folder, OSError(int(found[1]), os.strerror(int(found[1])))) from error
        raise
    finally:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        for path in (partial, old):
            shutil.rmtree(path, ignore_errors=True)


def _open_no_link(path: str, flags: int) -> int:
    """Opens a file as `open` does, but not through a link. Raises OSError for a link, on systems that have them."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


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
