"""Readers of images in files, such as the samples of another program or of `sample.py`."""

import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alphabar.bits import Bits, with_bits
from alphabar.data import Shape
from alphabar.data.decoding.pixel_values import WIDE_MODES
from alphabar.data.decoding.pixels import flattened, pixels_of
from alphabar.data.decoding.unreadable import unreadable_message
from alphabar.data.decoding.wide_pixels import to_pixels_of_bits
from alphabar.data.folders.files import hash_position, image_files
from alphabar.errors import UserError
from alphabar.files.array_header import read_array_header
from alphabar.files.reading import must_be_file, open_image

Size = tuple[int, int, int]
T = TypeVar("T")
GREY = ("1", "L", "LA", *WIDE_MODES)
DAMAGED = (OSError, EOFError, zipfile.BadZipFile, zlib.error)


class SampleFiles(ABC):
    """A set of N images of one size, in a fixed shuffled order: files are often sorted by class, and equal parts of a set must be
    similar."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def size(self) -> Size:
        """The size (C, H, W) of an image."""

    @abstractmethod
    def batches(self, num: int, batch_size: int, rank: int, world_size: int) -> Iterator[tuple[list[int], Tensor]]:
        """Yields this process's share of the first `num` images in batches: indices, in any order, and images [B, C, H, W].

        Raises UserError where an image cannot be read, on the process that should have read it.
        """


def open_samples(path: Path, is_rgba: bool = False, bits: Bits = 8) -> SampleFiles:
    """Returns the images of a folder or of an .npz file. Raises UserError if there are none, or if they are not all of one size.

    is_rgba: whether images in a folder are read as RGBA; otherwise transparent pixels become white. bits: the bits per channel that
    images are read with; a uint16 array needs 16.
    """
    if path.is_dir():
        return SampleFolder(path, is_rgba, bits)
    if not path.exists():
        raise UserError(f"samples={path}: there is no such folder or file")
    if path.suffix != ".npz":
        raise UserError(f"samples={path}: need a folder of images or an .npz file with an array uint8 [N, H, W, C]")
    return SampleArray(path, bits)


def batches_of_rank(num: int, batch_size: int, rank: int, world_size: int) -> Iterator[range]:
    """Yields this process's batches of the indices 0..num - 1."""
    for start in range(rank * batch_size, num, world_size * batch_size):
        yield range(start, min(start + batch_size, num))


def shuffled_order(names: Sequence[str]) -> list[int]:
    """Returns the shuffled order of the names, a permutation that depends on the names alone."""
    return sorted(range(len(names)), key=lambda index: (hash_position(names[index]), names[index]))


class SampleFolder(SampleFiles):
    """All images in a folder and its subfolders, read as those of `data=folder` are, but neither cropped nor scaled."""

    def __init__(self, root: Path, is_rgba: bool = False, bits: Bits = 8) -> None:
        self.root = root
        self.is_rgba = is_rgba
        self.bits: Bits = bits
        names = list(image_files(root))
        if not names:
            raise UserError(f"samples={root}: there are no images in this folder")
        self._size = self._open(names[0], self._size_of)
        for name in names[1:]:
            if (size := self._open(name, self._size_of)) != self._size:
                raise UserError(
                    f"samples={root}: need images of one size, got "
                    f"{format_size(self._size)} in {names[0]} and {format_size(size)} in {name}"
                )
        self.names = [names[index] for index in shuffled_order(names)]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def size(self) -> Size:
        return self._size

    def batches(self, num: int, batch_size: int, rank: int, world_size: int) -> Iterator[tuple[list[int], Tensor]]:
        for indices in batches_of_rank(num, batch_size, rank, world_size):
            yield list(indices), torch.stack([self._open(self.names[index], self._pixels) for index in indices])

    def _size_of(self, image: Image.Image) -> Size:
        """Returns the size of an image without decoding it."""
        channels = 1 if image.mode in GREY else 3
        return 4 if self.is_rgba and image.mode == "RGBA" else channels, image.height, image.width

    def _pixels(self, image: Image.Image) -> Tensor:
        if self.bits == 8:
            return pixels_of(flattened(image, self._size[0]))
        return to_pixels_of_bits(image, Shape(*self._size), bits=self.bits)

    def _open(self, name: str, read: Callable[[Image.Image], T]) -> T:
        try:
            with open_image(self.root / name) as image:
                return read(image)
        except Exception as error:  # any kind: a file may contain any bytes
            raise UserError(f"samples={self.root}: {unreadable_message(name, error)}") from error


class SampleArray(SampleFiles):
    """The first array of images, uint8 or, where bits is 16, uint16 [N, H, W, C], of an .npz file, read bit by bit, so that it need
    not fit into memory.

    Images are shuffled in the order that they would have in the folder that `sample.py` can write in place of such a file.
    """

    def __init__(self, path: Path, bits: Bits = 8) -> None:
        self.path = path
        self.bits: Bits = bits
        try:
            must_be_file(path)
            size = path.stat().st_size
            with zipfile.ZipFile(path) as archive:
                arrays = [each for each in archive.infolist() if each.filename.endswith(".npy")]
                headers = [read_array_header(archive, each, size) for each in arrays]
        except (ValueError, RuntimeError, *DAMAGED) as error:  # RuntimeError: encrypted files and unsupported compression
            raise UserError(f"samples={path}: {' '.join(str(error).split()) or type(error).__name__}") from error
        header = next((each for each in headers if each.holds_images(wide=bits == 16)), None)
        if header is None:
            found = ", ".join(f"{each.entry.filename[:-4]} {each.dtype} {list(each.shape)}" for each in headers)
            hint = ""
            if any(each.holds_images(wide=True) for each in headers):
                hint = "; one of uint16 needs data with 16 bits (data.bits=16)"
            raise UserError(f"samples={path}: need an array uint8 [N, H, W, C] with N >= 1, got {found or 'none'}{hint}")
        if problem := header.problem():
            raise UserError(f"samples={path}: {problem}")
        self.name, self.shape, self.dtype, self._start = header.entry.filename, header.shape, header.dtype, header.start

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> Size:
        return self.shape[3], self.shape[1], self.shape[2]

    def batches(self, num: int, batch_size: int, rank: int, world_size: int) -> Iterator[tuple[list[int], Tensor]]:
        order = shuffled_order([f"{position:06d}.png" for position in range(len(self))])
        chosen = sorted((position, index) for index, position in enumerate(order[:num]))  # sorted by their position in the file
        own = [chosen[part.start : part.stop] for part in batches_of_rank(num, batch_size, rank, world_size)]
        images = self._read({position for part in own for position, _ in part})
        for part in own:
            batch = torch.from_numpy(np.stack(list(islice(images, len(part)))))
            yield [index for _, index in part], with_bits(batch, self.bits).permute(0, 3, 1, 2)
        next(images, None)  # reads to the end, which checks the checksum

    def _read(self, positions: set[int]) -> Iterator[np.ndarray]:
        """Yields the images [H, W, C] at `positions`. It reads the whole file, since the checksum covers all of it."""
        length = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.name) as file:
                file.read(self._start)
                for position in range(len(self)):
                    content = file.read(length)
                    if len(content) < length:
                        raise UserError(f"samples={self.path}: the file ends before its {len(self)} images do")
                    if position in positions:
                        yield np.frombuffer(content, dtype=self.dtype).reshape(self.shape[1:])
        except DAMAGED as error:
            raise UserError(f"samples={self.path}: {unreadable_message(self.name, error)}") from error


def format_size(size: Size) -> str:
    """Returns the size of an image as text, such as "3 x 64 x 64"."""
    return " x ".join(map(str, size))
