"""Images that lie in files: those of somebody else's model, or of an earlier `sample.py`."""

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib import format as npy
from PIL import Image
from torch import Tensor

from alphabar.errors import UserError
from alphabar.training.data.files import image_files
from alphabar.training.data.unreadable import describe

Size = tuple[int, int, int]
MODES = {1: "L", 3: "RGB"}


class SampleFiles(ABC):
    """N images of one size."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def size(self) -> Size:
        """(C, H, W)"""

    @abstractmethod
    def batches(self, num: int, batch_size: int, rank: int, world_size: int) -> Iterator[tuple[list[int], Tensor]]:
        """This process's share of the first `num` images: indices and uint8 [B, C, H, W], a batch at a time."""


def open_samples(path: Path) -> SampleFiles:
    """Images of a folder or of an .npz file. Raises UserError if there are none, or if they are not all of one size."""
    if path.is_dir():
        return SampleFolder(path)
    if not path.exists():
        raise UserError(f"samples={path}: there is no such folder or file")
    if path.suffix != ".npz":
        raise UserError(f"samples={path}: need a folder of images or an .npz file with an array uint8 [N, H, W, C]")
    return SampleArray(path)


def shares(num: int, batch_size: int, rank: int, world_size: int) -> Iterator[range]:
    """This process's batches of the indices 0..num - 1."""
    for start in range(rank * batch_size, num, world_size * batch_size):
        yield range(start, min(start + batch_size, num))


class SampleFolder(SampleFiles):
    """All images in a folder and its subfolders, in the order of their names; nothing is cropped or scaled."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names = list(image_files(root))
        if not self.names:
            raise UserError(f"samples={root}: there are no images in this folder")
        for name in self.names[1:]:
            if self._size(name) != self.size:
                raise UserError(
                    f"samples={root}: need images of one size, got {shown(self.size)} in {self.names[0]} and "
                    f"{shown(self._size(name))} in {name}"
                )

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def size(self) -> Size:
        return self._size(self.names[0])

    def batches(self, num: int, batch_size: int, rank: int, world_size: int) -> Iterator[tuple[list[int], Tensor]]:
        for indices in shares(num, batch_size, rank, world_size):
            yield list(indices), torch.stack([self._read(self.names[index]) for index in indices])

    def _size(self, name: str) -> Size:
        with self._open(name) as image:
            channels = 1 if image.mode in ("L", "1", "I;16") else 3
            return channels, image.height, image.width

    def _read(self, name: str) -> Tensor:
        channels = self.size[0]
        try:
            with self._open(name) as image:
                pixels = np.array(image.convert(MODES[channels]))
        except OSError as error:
            raise UserError(f"samples={self.root}: {describe(name, error)}") from error
        return torch.from_numpy(pixels).view(*pixels.shape[:2], channels).permute(2, 0, 1)

    def _open(self, name: str) -> Image.Image:
        try:
            return Image.open(self.root / name)
        except (OSError, ValueError) as error:
            raise UserError(f"samples={self.root}: {describe(name, error)}") from error


class SampleArray(SampleFiles):
    """The first array uint8 [N, H, W, C] of an .npz file, read bit by bit, so that it need not fit into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                found = {name: self._header(archive, name) for name in archive.namelist() if name.endswith(".npy")}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"samples={path}: {' '.join(str(error).split())}") from error
        fitting = [name for name, (shape, dtype) in found.items() if len(shape) == 4 and dtype == np.uint8 and shape[3] in MODES]
        if not fitting or found[fitting[0]][0][0] == 0:
            there = ", ".join(f"{name[:-4]} {dtype} {list(shape)}" for name, (shape, dtype) in found.items())
            raise UserError(f"samples={path}: need an array uint8 [N, H, W, C] with N >= 1 and C = 1 or 3, got {there or 'none'}")
        self.name = fitting[0]
        self.shape = found[self.name][0]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> Size:
        return self.shape[3], self.shape[1], self.shape[2]

    def batches(self, num: int, batch_size: int, rank: int, world_size: int) -> Iterator[tuple[list[int], Tensor]]:
        mine = list(shares(num, batch_size, rank, world_size))
        length = int(np.prod(self.shape[1:]))
        with zipfile.ZipFile(self.path) as archive, archive.open(self.name) as file:
            _read_header(file)
            start = file.tell()
            for indices in mine:
                file.seek(start + indices.start * length)
                content = np.frombuffer(file.read(len(indices) * length), dtype=np.uint8)
                if len(content) < len(indices) * length:
                    raise UserError(f"samples={self.path}: the file ends before its {len(self)} images do")
                images = torch.from_numpy(content.reshape(len(indices), *self.shape[1:]).copy())
                yield list(indices), images.permute(0, 3, 1, 2)

    def _header(self, archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
        with archive.open(name) as file:
            shape, is_fortran, dtype = _read_header(file)
        if is_fortran:
            raise ValueError(f"{name} is stored in Fortran order, need C order")
        return shape, dtype


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    return read(file)


def shown(size: Size) -> str:
    """3 x 64 x 64"""
    return " x ".join(map(str, size))
