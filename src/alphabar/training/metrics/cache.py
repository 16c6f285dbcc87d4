"""Results on disk under a hash of everything that they depend on.

A cache saves time and nothing else: what cannot be read is computed again, what cannot be written is said in one line.
"""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)


def location(folder: Path, what: str, *parts: int | str | tuple[int, ...]) -> Path:
    """The file for `what` made of `parts`."""
    return folder / f"{what}-{hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()}.pt"


def read(path: Path) -> dict[str, Any] | None:
    """What `write` wrote, or None."""
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # any bytes may stand in a damaged file
        log.warning("cannot read %s (%s), so it is made again", path, type(error).__name__)
        return None
    return content if isinstance(content, dict) else None


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes tensors, numbers and text; whoever reads meanwhile sees the old file or the new one, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: what torch makes of a full disk
        partial.unlink(missing_ok=True)
        log.warning("cannot keep %s, so the next run makes it again: %s", path, " ".join(str(error).split()))
