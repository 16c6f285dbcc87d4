"""Reads files that torch.save wrote, after a look at their checksums."""

import pickle
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch

from alphabar.errors import UserError

BLOCK = 2**20  # bytes that are read at a time
FOLDER_BIT = 0x10  # of MS-DOS attributes: torch.load fills the tensors of such a record with whatever is in memory


def load_torch_file(path: Path, name: str, in_memory: bool = True) -> Any:
    """Returns the content of the file, on the CPU; no code in it is executed.

    The checksums of the whole file are verified first, also where `in_memory` is False and the tensors are mapped from the file,
    which are then read once more when they are used.
    name: the file in messages.
    Raises UserError if it cannot be read, or if it is damaged.
    """
    try:
        verify_checksums(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=not in_memory)
    except (RuntimeError, EOFError, BadZipFile, pickle.UnpicklingError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{name}: cannot be read, it is damaged, truncated or not a checkpoint ({reason})") from error


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
