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
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from alphabar.files.atomic import atomic_writer

log = logging.getLogger(__name__)
HASH_SIZE = 32
CHUNK = 2**20  # bytes that are hashed at a time


@dataclass(frozen=True)
class DiskCache:
    """A folder of entries, each a file behind its SHA-256, written atomically; processes may share it."""

    folder: Path

    def path(self, kind: str, *key: object, suffix: str = ".pt") -> Path:
        """Returns the file of the entry of this kind under `key`: everything that its content depends on, compared by its repr."""
        digest = hashlib.blake2b(repr(key).encode(errors="surrogateescape"), digest_size=12).hexdigest()
        return self.folder / f"{kind}-{digest}{suffix}"

    def is_intact(self, path: Path) -> bool:
        """Returns whether there is an entry that matches its hash; one that does not, or cannot be read, is logged in one line."""
        try:
            with path.open("rb") as file:
                expected, content = file.read(HASH_SIZE), hashlib.sha256()
                while part := file.read(CHUNK):
                    content.update(part)
            if content.digest() != expected:
                raise ValueError("it is damaged")
            return True
        except (FileNotFoundError, NotADirectoryError):
            return False
        except (OSError, ValueError) as error:
            _log_unusable(path, error)
            return False

    def load(self, path: Path) -> dict[str, Any] | None:
        """Returns the content of an entry, on the CPU, or None if there is none or it is damaged, which is logged in one line."""
        if not self.is_intact(path):
            return None
        try:
            with torch.inference_mode(False):  # so that tensors may be trained on
                return torch.load(io.BytesIO(path.read_bytes()[HASH_SIZE:]), map_location="cpu", weights_only=True)
        except Exception as error:  # of whatever kind: another version of torch may have written it
            _log_unusable(path, error)
            return None

    def map_array(self, path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> np.ndarray:
        """Returns the numbers of an intact entry of `writer`, each read from the disk when it is used; changes stay in memory."""
        return np.memmap(path, dtype, mode="c", offset=HASH_SIZE, shape=shape)

    @contextmanager
    def writer(self, path: Path) -> Iterator[Callable[[bytes | memoryview], None]]:
        """Yields a function that writes an entry piece by piece; raises OSError if it cannot be written."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = hashlib.sha256()
        with atomic_writer(path) as file:
            file.write(bytes(HASH_SIZE))  # until the hash is known

            def write(part: bytes | memoryview) -> None:
                content.update(part)
                file.write(part)

            yield write
            file.seek(0)
            file.write(content.digest())

    def store(self, path: Path, content: dict[str, Any]) -> None:
        """Writes an entry of tensors, numbers and texts; logs one line if it cannot be written."""
        buffer = io.BytesIO()
        torch.save(content, buffer)
        try:
            with self.writer(path) as write:
                write(buffer.getbuffer())
        except OSError as error:
            _log_unwritable(path, error)

    def load_or_make(self, path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns the content of an entry; where there is none, calls `make`, in one process at a time, and stores the result."""
        with self.locked(path):
            content = self.load(path)
            if content is None:
                content = make()
                self.store(path, content)
            return content

    @contextmanager
    def locked(self, path: Path) -> Iterator[None]:
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


def _log_unusable(path: Path, error: Exception) -> None:
    log.warning("cannot use %s, so it is made again: %s", path, " ".join(str(error).split()))


def _log_unwritable(path: Path, error: OSError) -> None:
    log.warning("cannot keep %s, so the next run makes it again: %s", path, error.strerror or error)
