"""Results on disk under a hash of everything that they depend on.

A cache saves time and nothing else: what cannot be read is computed again, what cannot be written is said in one line.
"""

import hashlib
import io
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)
HASH_SIZE = 32


def location(folder: Path, what: str, *parts: int | str | tuple[int, ...]) -> Path:
    """The file for `what` made of `parts`."""
    return folder / f"{what}-{hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()}.pt"


def read(path: Path) -> dict[str, Any] | None:
    """What `write` wrote, or None."""
    try:
        stored = path.read_bytes()
        if hashlib.sha256(stored[HASH_SIZE:]).digest() != stored[:HASH_SIZE]:
            raise ValueError("it is damaged")
        return torch.load(io.BytesIO(stored[HASH_SIZE:]), map_location="cpu", weights_only=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # of whatever kind: another version of torch may have written it
        log.warning("cannot use %s, so it is made again: %s", path, " ".join(str(error).split()))
        return None


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes tensors, numbers and text, behind their SHA-256; whoever reads meanwhile sees the old file or the new one."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(hashlib.sha256(buffer.getbuffer()).digest())
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        log.warning("cannot keep %s, so the next run makes it again: %s", path, error.strerror)
