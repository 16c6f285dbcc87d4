"""Reads files that torch.save wrote."""

import pickle
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch

from alphabar.errors import UserError


def load_torch_file(path: Path, name: str, in_memory: bool = True) -> Any:
    """Returns the content of the file, on the CPU; no code in it is executed.

    name: the file in messages. in_memory: False maps the tensors from the file, which are then read when they are used.
    Raises UserError if it cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=not in_memory)
    except (RuntimeError, EOFError, BadZipFile, pickle.UnpicklingError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{name}: cannot be read, it is truncated or not a checkpoint ({reason})") from error
