"""Results on the disk under a hash of everything that they depend on.

A cache only saves time: an entry that cannot be read is computed again, and one that cannot be written is logged in one line.
"""

import hashlib
import io
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from alphabar.files.atomic import atomic_writer, write_text

log = logging.getLogger(__name__)
HASH_SIZE = 32
CLOCK_TICK = 0.02  # seconds; the times of files are less fine than those of the processor, mostly by 0.004


@dataclass(frozen=True)
class DiskCache:
    """A folder of entries, each a file that begins with the SHA-256 of the rest, written atomically; processes may share it.

    An entry holds a dictionary (`store`, `load`) or an array that is mapped into memory (`store_array`, `map_array`).
    """

    folder: Path

    def path(self, kind: str, *key: object, suffix: str = ".pt") -> Path:
        """Returns the file of the entry of this kind under `key`: everything that its content depends on, compared by its repr."""
        digest = hashlib.blake2b(repr(key).encode(errors="surrogateescape"), digest_size=12).hexdigest()
        return self.folder / f"{kind}-{digest}{suffix}"

    def is_intact(self, path: Path) -> bool:
        """Returns whether there is an entry that matches its hash; one that does not, or cannot be read, is logged in one line.

        The file is hashed once: a note beside it then holds its inode, its size and the times of its last changes, and as long as
        they are the same, the file is not read again. So an array of many GB does not cost minutes at every start.
        """
        try:
            if not _is_noted(path):
                identity = _lasting_identity(path)
                with path.open("rb") as file:
                    if file.read(HASH_SIZE) != hashlib.file_digest(file, "sha256").digest():
                        raise ValueError("it is damaged")
                _write_note(path, identity)
            return True
        except (FileNotFoundError, NotADirectoryError):
            return False
        except (OSError, ValueError) as error:
            _log_unusable(path, error)
            return False

    def load(self, path: Path) -> dict[str, Any] | None:
        """Returns the content of an entry, on the CPU, or None if there is none or it is damaged, which is logged in one line."""
        try:
            entry = path.read_bytes()
            if hashlib.sha256(memoryview(entry)[HASH_SIZE:]).digest() != entry[:HASH_SIZE]:
                raise ValueError("it is damaged")
            with torch.inference_mode(False):  # so that tensors may be trained on
                return torch.load(io.BytesIO(entry[HASH_SIZE:]), map_location="cpu", weights_only=True)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # any kind: another version of torch may have written it
            _log_unusable(path, error)
            return None

    def map_array(self, path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> np.ndarray:
        """Returns the array in an intact entry, each number read from the disk when it is used; changes stay in memory.

        Raises OSError if there is no entry, and ValueError for one of another size.
        """
        expected, found = HASH_SIZE + math.prod(shape) * np.dtype(dtype).itemsize, path.stat().st_size
        if found != expected:
            raise ValueError(f"{path}: need {expected:,} bytes for an array {shape}, got {found:,}")
        return np.memmap(path, dtype, mode="c", offset=HASH_SIZE, shape=shape)

    @contextmanager
    def writer(self, path: Path) -> Iterator[Callable[[bytes | memoryview], None]]:
        """Yields a function that writes an entry for `map_array` piece by piece; raises OSError if it cannot be written."""
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
        _write_note(path, _lasting_identity(path))

    def store_array(self, path: Path, array: np.ndarray) -> bool:
        """Writes an entry for `map_array`; returns whether it could be written, which is logged in one line if not."""
        try:
            with self.writer(path) as write:
                write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            return True
        except OSError as error:
            _log_unwritable(path, error)
            return False

    def store(self, path: Path, content: dict[str, Any]) -> None:
        """Writes an entry of tensors, numbers and texts; logs one line if it cannot be written."""
        buffer = io.BytesIO()
        torch.save(content, buffer)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_writer(path) as file:
                file.write(hashlib.sha256(buffer.getbuffer()).digest())
                file.write(buffer.getbuffer())
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


def _note(path: Path) -> Path:
    return path.with_name(f".{path.name}.verified")


def _identity(path: Path) -> str:
    """Returns what changes with every write to a file, and when another file takes its place."""
    status = path.stat()
    return f"inode {status.st_ino} size {status.st_size} mtime {status.st_mtime_ns} ctime {status.st_ctime_ns}"


def _lasting_identity(path: Path) -> str:
    """Returns the identity of a file once every later write changes it: not before the clock of the file system has moved on."""
    age = time.time() - path.stat().st_ctime
    time.sleep(min(max(CLOCK_TICK - age, 0), CLOCK_TICK))
    return _identity(path)


def _is_noted(path: Path) -> bool:
    """Returns whether the file is the one that its note says was found intact. Raises OSError if there is no such file."""
    identity = _identity(path)
    try:
        return _note(path).read_text(encoding="utf-8") == identity
    except (OSError, ValueError):
        return False


def _write_note(path: Path, identity: str) -> None:
    with suppress(OSError):  # without a note, the file is hashed again
        write_text(_note(path), identity)


def _log_unusable(path: Path, error: Exception) -> None:
    log.warning("cannot use %s, so it is made again: %s", path, " ".join(str(error).split()))


def _log_unwritable(path: Path, error: OSError) -> None:
    log.warning("cannot keep %s, so the next run makes it again: %s", path, error.strerror or error)
