"""Results on the disk under a hash of everything that they depend on.

A cache only saves time: an entry that cannot be read is computed again, and one that cannot be written is logged in one line.
"""

import hashlib
import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from filelock import FileLock, Timeout

from alphabar.files.atomic import atomic_writer

log = logging.getLogger(__name__)
HASH_SIZE = 32


@dataclass(frozen=True)
class DiskCache:
    """A folder of entries, each a file behind its SHA-256, written atomically; processes may share it."""

    folder: Path

    def path(self, kind: str, *key: object, suffix: str = ".pt") -> Path:
        """Returns the file of the entry of this kind under `key`: everything that its content depends on, compared by its repr."""
        digest = hashlib.blake2b(repr(key).encode(errors="surrogateescape"), digest_size=12).hexdigest()
        return self.folder / f"{kind}-{digest}{suffix}"

    def load(self, path: Path) -> dict[str, Any] | None:
        """Returns the content of an entry, on the CPU, or None if there is none or it is damaged, which is logged in one line."""
        try:
            with path.open("rb") as file:
                expected, content = file.read(HASH_SIZE), file.read()
            if hashlib.sha256(content).digest() != expected:
                raise ValueError("it is damaged")
            with torch.inference_mode(False):  # so that tensors may be trained on
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # of whatever kind: another version of torch may have written it
            log.warning("cannot use %s, so it is made again: %s", path, " ".join(str(error).split()))
            return None

    def store(self, path: Path, content: dict[str, Any]) -> None:
        """Writes an entry of tensors, numbers and texts; logs one line if it cannot be written."""
        buffer = io.BytesIO()
        torch.save(content, buffer)

        def write(file: BinaryIO) -> None:
            file.write(hashlib.sha256(buffer.getbuffer()).digest())
            file.write(buffer.getbuffer())

        self.store_file(path, write)

    def store_file(self, path: Path, write: Callable[[BinaryIO], object]) -> None:
        """Writes a file of another format beside the entries, by `write`; logs one line if it cannot be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_writer(path) as file:
                write(file)
        except OSError as error:
            log.warning("cannot keep %s, so the next run makes it again: %s", path, error.strerror or error)

    def load_or_make(self, path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns the content of an entry; where there is none, calls `make`, in one process at a time, and stores the result."""
        with _locked(path):
            content = self.load(path)
            if content is None:
                content = make()
                self.store(path, content)
            return content


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps other processes from making the same entry at once; where no lock can be had, each makes its own."""
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            log.info("another process is making %s: waiting for it", path)
            lock.acquire(timeout=-1)
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):  # unlinked while it is held: whoever waits for it finds the finished entry
            Path(lock.lock_file).unlink()
        lock.release()
