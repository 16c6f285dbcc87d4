"""The header of an array in an .npz file, and whether the file can hold what it promises."""

import io
import zipfile
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

MAX_HEADER = 2**14  # bytes
MAX_RATIO = 1100  # of the size of an array to that in the file: deflate, the one method of numpy, reaches 1032
MAX_IMAGES = 2**25  # whose order fits into memory
MAX_PIXELS = 2**28  # of an image


class ArrayHeader(NamedTuple):
    """An array in an archive. start: the number of bytes before its elements."""

    entry: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int

    def holds_images(self, wide: bool = False) -> bool:
        """Returns whether it is an array uint8, or if wide also uint16, [N, H, W, C] with N, H, W, C >= 1."""
        return len(self.shape) == 4 and self.dtype in (np.uint8, *((np.uint16,) if wide else ())) and min(self.shape) > 0

    def problem(self) -> str:
        """Returns why an array of images is not whole, or too large to be read; "" if it can be read."""
        num, height, width, channels = self.shape
        if self.entry.file_size < self.start + prod(self.shape) * self.dtype.itemsize:
            return f"the file ends before its {num} images do"
        if num > MAX_IMAGES or height * width * channels > MAX_PIXELS:
            return f"need at most {MAX_IMAGES:,} images, of at most {MAX_PIXELS:,} numbers each, got {list(self.shape)}"
        return ""


def read_array_header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, archive_size: int) -> ArrayHeader:
    """Returns the header of an array in an archive of so many bytes.

    Raises ValueError for an array that cannot be in so small a file, one in Fortran order and anything else, and as zipfile does.
    """
    ratio = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: MAX_RATIO}.get(entry.compress_type, 0)
    if entry.compress_size > archive_size or entry.file_size > ratio * entry.compress_size:
        raise ValueError(f"{entry.filename} promises {entry.file_size:,} bytes, which cannot be in a file of {archive_size:,}")
    with archive.open(entry) as file:
        begin = io.BytesIO(file.read(MAX_HEADER))  # a header may say that it has 4 GB
    read = npy.read_array_header_1_0 if npy.read_magic(begin) == (1, 0) else npy.read_array_header_2_0
    shape, is_fortran, dtype = read(begin)
    if is_fortran:
        raise ValueError(f"{entry.filename} is stored in Fortran order, need C order")
    return ArrayHeader(entry, shape, dtype, begin.tell())
