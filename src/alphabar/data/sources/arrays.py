"""Images in one array of a .npy file, or of an .npz file, which may also have labels, captions and vectors."""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import torch

from alphabar.bits import Bits
from alphabar.data.datamodule import ImageDataModule
from alphabar.data.decoding.raw_images import DTYPES, PICTURE_CHANNELS, RawImage, to_tensor
from alphabar.data.folders.files import FileStates
from alphabar.data.image_sets.numbered import Metadata, NumberedImages, NumberedSource
from alphabar.data.loading.options import Loading
from alphabar.errors import DataNotFound, UserError
from alphabar.files.array_header import read_array_header
from alphabar.files.paths import user_path
from alphabar.files.reading import must_be_file
from alphabar.resolution import Resolution

Layout = Literal["NHWC", "NCHW"]
ADVICE = ": data.path names a .npy file, or an .npz file with an array images [N, H, W, C]"
IMAGES, LABELS, CAPTIONS, VECTORS = ("images", "x", "arr_0"), ("labels", "y"), ("captions",), ("vectors",)  # names in an .npz file
DAMAGED = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)


class ArrayImages(NumberedImages):
    """The images of a file, uint8 or uint16 [N, H, W], [N, H, W, C] or [N, C, H, W]; nothing in it is unpickled.

    An .npz file has them as `images`, and may also have `labels` [N], `captions` [N], `vectors` [N, D] and `classes` [K].

    layout: "NHWC" or "NCHW" for an array of four dimensions; None: inferred from its shape.
    Raises DataNotFound if there is no such file, and UserError for one that cannot be read, or whose arrays do not fit together.
    """

    def __init__(self, path: Path, layout: Layout | None) -> None:
        if not path.exists():
            raise DataNotFound(f"there is no file {path}", ADVICE)
        if path.suffix not in (".npy", ".npz"):
            raise DataNotFound(f"{path} is neither a .npy nor an .npz file", ADVICE)
        self.path = path
        try:
            must_be_file(path)
            arrays = {IMAGES[0]: np.lib.format.open_memmap(path, mode="r")} if path.suffix == ".npy" else read_arrays(path)
        except DAMAGED as error:
            raise UserError(f"cannot read {path}: {' '.join(str(error).split()) or type(error).__name__}") from error
        images = self._named(arrays, IMAGES)
        if images is None:
            raise UserError(f"{path}: need an array {' or '.join(IMAGES)}, got {', '.join(arrays) or 'none'}")
        if images.dtype not in (np.uint8, np.uint16):
            raise UserError(f"{path}: need images as {DTYPES}, got {images.dtype}")
        self.images = channels_first(images, layout, path)
        self.labels, self.captions, self.vectors, self.names = (
            self._named(arrays, names) for names in (LABELS, CAPTIONS, VECTORS, ("classes",))
        )
        for name, found in (("labels", self.labels), ("captions", self.captions), ("vectors", self.vectors)):
            if found is not None and (len(found.shape) == 0 or len(found) != len(images)):
                raise UserError(f"{path}: need {len(images)} {name}, as many as images, got {list(found.shape)}")

    def __len__(self) -> int:
        return len(self.images)

    def read(self, number: int) -> RawImage:
        return to_tensor(self.images[number])

    def name(self, number: int) -> str:
        return f"image {number} in {self.path}"

    def metadata(self, reads_captions: bool) -> Metadata:
        return Metadata(
            None if self.labels is None else torch.from_numpy(self._checked("labels", self.labels, "iu", 1).astype(np.int64)),
            None if self.captions is None or not reads_captions else self._checked("captions", self.captions, "U", 1).tolist(),
            None if self.vectors is None else torch.from_numpy(self._checked("vectors", self.vectors, "fiu", 2).astype(np.float32)),
        )

    @property
    def classes(self) -> Sequence[str] | None:
        return None if self.names is None else list(map(str, self.names.ravel().tolist()))

    @property
    def remarks(self) -> Mapping[str, str]:
        return {}

    def image_files(self) -> dict[str, Any]:
        return {"num": len(self), "names_and_sizes": self._states.names_and_sizes()}

    def fingerprint(self) -> str:
        return self._states.fingerprint(self.images.shape)

    @cached_property
    def _states(self) -> FileStates:
        return FileStates(self.path.parent, [self.path.name])

    @staticmethod
    def _named(arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray | None:
        return next((arrays[name] for name in names if name in arrays), None)

    def _checked(self, name: str, values: np.ndarray, kinds: str, ndim: int) -> np.ndarray:
        """Returns the array. Raises UserError unless it has `ndim` dimensions, one of these kinds of dtype, and finite values."""
        words = {"iu": "whole numbers [N]", "U": "texts [N]", "fiu": "finite numbers [N, D]"}[kinds]
        is_finite = values.dtype.kind != "f" or bool(np.isfinite(values).all())
        if values.dtype.kind not in kinds or values.ndim != ndim or 0 in values.shape or not is_finite:
            oddity = "" if is_finite else ", not all finite"
            raise UserError(f"{self.path}: need {name} as {words}, got {values.dtype} {list(values.shape)}{oddity}")
        return values


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file by name. Raises ValueError for pickles, and for arrays larger than the file holds."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(".npy"):
                header = read_array_header(archive, entry, path.stat().st_size)
                if header.dtype.hasobject:
                    raise ValueError(f"{entry.filename} is pickled, need an array of numbers or texts")
    with np.load(path, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def channels_first(images: np.ndarray, layout: Layout | None, path: Path) -> np.ndarray:
    """Returns images as a view [N, C, H, W]. Raises UserError if the dimension of the channels is ambiguous."""
    if images.ndim == 3 and min(images.shape) > 0:
        return images[:, None]
    if images.ndim != 4 or min(images.shape) == 0:
        raise UserError(f"{path}: need images [N, H, W], [N, H, W, C] or [N, C, H, W], got {list(images.shape)}")
    first, second, last = images.shape[1:]
    if layout is None:
        by_channels = [found for found, size in (("NCHW", first), ("NHWC", last)) if size in PICTURE_CHANNELS]
        by_squares = [found for found, sides in (("NCHW", (second, last)), ("NHWC", (first, second))) if sides[0] == sides[1]]
        certain = next((found for found in (by_channels, by_squares) if len(found) == 1), None)
        if certain is None:
            raise UserError(f"data.layout: which of {list(images.shape)} are the channels in {path}? give data.layout=NHWC or NCHW")
        layout = "NCHW" if certain == ["NCHW"] else "NHWC"
    return images if layout == "NCHW" else np.moveaxis(images, 3, 1)


class Arrays(ImageDataModule):
    """The data module of the images in a file, see `ArrayImages`; other arguments as in `NumberedSource`."""

    def __init__(
        self,
        path: str,
        *,
        layout: Layout | None = None,
        held_out_path: str | None = None,
        held_out: float = 0.1,
        resolution: Resolution | None = None,
        channels: int | None = None,
        classes: Sequence[str] | None = None,
        bits: Bits = 8,
        **loading: Unpack[Loading],
    ) -> None:
        images = ArrayImages(user_path(path).absolute(), layout)
        others = None if held_out_path is None else ArrayImages(user_path(held_out_path).absolute(), layout)
        source = NumberedSource(images, others, held_out, resolution, channels, classes, bits=bits)
        super().__init__(source, **loading)
