"""Files that torch.save wrote."""

import pickle
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch

from alphabar.errors import UserError


def content_of(path: Path, name: str, in_memory: bool = True) -> Any:
    """What is in the file, on the CPU; nothing in it is executed.

    name: what messages call it. in_memory: or else tensors are read from the file when they are used.
    Raises UserError if it cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=not in_memory)
    except (RuntimeError, EOFError, BadZipFile, pickle.UnpicklingError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{name}: cannot be read, it is truncated or not a checkpoint ({reason})") from error
