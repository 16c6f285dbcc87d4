"""Reads files that torch.save wrote, after a look at their checksums."""

import pickle
import re
import time
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch import Tensor

from alphabar.errors import UserError
from alphabar.files.cache import CLOCK_TICK

BLOCK = 2**20  # bytes that are read at a time
FOLDER_BIT = 0x10  # of MS-DOS attributes: torch.load fills the tensors of such a record with whatever is in memory
MAX_DEPTH = 100  # of containers in containers; a checkpoint of a run has less than 10
# The name in torch's message about what it does not unpickle; the rest of the message tells how to run it all the same.
REFUSED_NAME = re.compile(r"GLOBAL ([\w.]+)|function <?(?:built-in function )?([\w.]+)")

_whole_files: set[tuple[Path, int, int, int, int]] = set()  # path, device, inode, size, time of the last change


class DamagedFile(UserError):
    """A file that is not as it was written: its checksums are not right, or it has none since it is no file of torch.save."""


def load_torch_file(path: Path, name: str, in_memory: bool = True) -> Any:
    """Returns the content of the file, on the CPU; no code in it is executed.

    The checksums of the whole file are verified first, also where `in_memory` is False and the tensors are mapped from the file,
    which are then read once more when they are used. A file that this process has found whole and that is the same since is not
    verified again.
    name: the file in messages.
    Raises DamagedFile if its checksums are not right, and UserError if it cannot be read for another reason, holds anything but
    tensors and plain values, or claims larger tensors than it holds.
    """
    try:
        _verify_once(path)
    except Exception as error:  # any kind: a file may contain any bytes
        kind = UserError if isinstance(error, OSError) else DamagedFile
        raise kind(f"{name}: {_reason(error)}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=not in_memory)
    except pickle.UnpicklingError as error:
        found = REFUSED_NAME.search(str(error))
        what = (found[1] or found[2]) if found else "something other than tensors and plain values"
        raise UserError(f"{name}: cannot be read, it holds {what}, which could run code; no run writes that") from error
    except Exception as error:
        raise UserError(f"{name}: {_reason(error)}") from error
    _check_content(content, name)
    return content


def _reason(error: Exception) -> str:
    """Returns the line that says why a file cannot be read."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"cannot be read, it is damaged, truncated or not a checkpoint ({reason})"


def _verify_once(path: Path) -> None:
    """Verifies the checksums of a file unless this process has done so and the file is the same since.

    One that has changed just now is not remembered, since the time of another change could be the same.
    """
    status, now = path.stat(), time.time()
    identity = (path.absolute(), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if identity in _whole_files:
        return
    verify_checksums(path)
    if now - status.st_mtime > CLOCK_TICK:
        _whole_files.add(identity)


def verify_checksums(path: Path) -> None:
    """Compares every byte that is loaded of a file of `torch.save` with the CRC-32 that was written with it.

    Such a file is a ZIP archive of uncompressed records, each with a checksum, at which `torch.load` does not look.
    Raises BadZipFile, or another error of zipfile, if the file is damaged, truncated or no such archive.
    """
    with ZipFile(path) as archive:
        records = archive.infolist()
        if any(record.compress_type != ZIP_STORED or record.external_attr & FOLDER_BIT for record in records):
            raise BadZipFile("it has a record that is compressed or a folder, as torch.save writes none")
        if sum(record.file_size for record in records) > path.stat().st_size:
            raise BadZipFile("its records are longer than the file")
        for record in records:
            with archive.open(record) as content:
                while content.read(BLOCK):
                    pass


def _check_content(content: Any, name: str) -> None:
    """Raises UserError if a tensor is larger than the memory behind it, or containers are nested too deeply."""
    seen, queue = {id(content)}, [(content, 0)]
    while queue:
        value, depth = queue.pop()
        if depth > MAX_DEPTH:
            raise UserError(f"{name}: not a checkpoint of alphabar, its content is nested more than {MAX_DEPTH} deep")
        if isinstance(value, Tensor) and not _is_whole(value):
            raise UserError(f"{name}: damaged, it claims a tensor of shape {list(value.shape)}, which it does not hold")
        for item in dict.values(value) if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
            if isinstance(item, Tensor | dict | list | tuple) and id(item) not in seen:
                seen.add(id(item))
                queue.append((item, depth + 1))


def _is_whole(tensor: Tensor) -> bool:
    """Returns whether the memory behind a tensor is as large as the tensor."""
    is_plain = tensor.layout == torch.strided and not tensor.is_meta
    return is_plain and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
