"""Image sets whose images are decoded batch by batch, and the base class of sources of such images."""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from alphabar.bits import DTYPE_OF_BITS, Bits
from alphabar.data import ImageSet, ImageSource, LoadedImages, ReadImages, Shape
from alphabar.data.decoding.pixels import CENTER, Crop, image_shape, upright_size
from alphabar.data.decoding.unreadable import Unreadable, unreadable_message
from alphabar.data.decoding.wide_pixels import to_pixels_of_bits
from alphabar.errors import UserError
from alphabar.progress import show_progress
from alphabar.resolution import Resolution

log = logging.getLogger(__name__)
CHUNK = 64  # images that a thread decodes at a time
NUM_THREADS = min(8, os.cpu_count() or 1)
MANY = 16  # images in a batch from which on threads are started


class ImageReader(ABC):
    """Reads N images, in a fixed order that mixes the classes."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def pixels(self, index: int, shape: Shape, crop: Crop = CENTER) -> Tensor:
        """Returns the image as a tensor [C, H, W] of `bits`. Raises an error of any kind if it cannot be read."""

    @abstractmethod
    def size(self, index: int) -> tuple[int, int]:
        """Returns (height, width) of the image before it is cropped. Raises an error of any kind if it cannot be read."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Returns the name of the image in messages."""

    @property
    def max_reference(self) -> int | None:
        """The maximal number of images that serve as the reference of figures; None: all."""
        return None

    @property
    def bits(self) -> Bits:
        """The bits per channel, see `ImageSet.bits`."""
        return 8

    @property
    def can_crop(self) -> bool:
        """Whether images of another aspect ratio are cropped rather than refused."""
        return True

    def folder(self) -> Path | None:
        """Returns the folder in which all image files lie, or None if they do not lie in one."""
        return None


class PictureReader(ImageReader, ABC):
    """Reads N images that Pillow can open, each cropped to the aspect ratio of the requested shape and scaled to it."""

    @abstractmethod
    def read(self, index: int) -> Image.Image: ...

    def pixels(self, index: int, shape: Shape, crop: Crop = CENTER) -> Tensor:
        with self.read(index) as image:
            return to_pixels_of_bits(image, shape, crop, self.bits)

    def size(self, index: int) -> tuple[int, int]:
        with self.read(index) as image:
            return upright_size(image)


class DecodedSource(ImageSource):
    """A source of image files, each cropped to the largest centred part with the aspect ratio of `resolution`, and scaled to it.

    It is not `symmetric`, since there may be writing in the images.

    channels: 1 grey, 3 RGB. held_out: the fraction of the images that is held out. strict: see `DecodedImages`.
    bits: the bits per channel, see `to_pixels_of_bits`; 16 for grey images only.
    Raises ValueError as `image_shape` does, unless 0 <= held_out < 1, and for colours of 16 bits.
    """

    def __init__(self, resolution: Resolution, channels: int, held_out: float, strict: bool, bits: Bits = 8) -> None:
        if bits == 16 and channels != 1:
            raise ValueError(
                f"data.bits=16: Pillow reads 16 bits of grey alone, need data.channels=1 or data=arrays, got {channels}"
            )
        self._shape = image_shape(channels, resolution)
        if not 0 <= held_out < 1:
            raise ValueError(f"need 0 <= held_out < 1, got {held_out}")
        self.fraction = held_out
        self.strict = strict
        self.num_bits: Bits = bits

    @property
    def bits(self) -> Bits:
        return self.num_bits

    @property
    def shape(self) -> Shape:
        return self._shape

    def decoded_images(
        self, reader: ImageReader, labels: Tensor | None, texts: Sequence[str] | None, vectors: Tensor | None = None
    ) -> "DecodedImages":
        """Returns the images of `reader` with class ids, int64 [N], captions `texts` [N] and vectors, float32 [N, D]."""
        captions = None
        if texts is not None and self.captions is not None:
            ids = {caption: index for index, caption in enumerate(self.captions)}
            captions = torch.tensor([ids[text] for text in texts], dtype=torch.int64)
        return DecodedImages(reader, self._shape, labels, self.strict, captions, self.classes, vectors)


class DecodedImages(ImageSet):
    """The images of `reader`, each made to fit `shape`.

    strict: an image that cannot be read raises `UserError`. Otherwise it is named in the log; `batch` takes the next
    readable one in its place, with its label and caption, and `load` leaves it out.
    classes: the names of the classes; `batch` logs one of which no image can be read when it meets the last.
    """

    def __init__(
        self,
        reader: ImageReader,
        shape: Shape,
        labels: Tensor | None,
        strict: bool = False,
        captions: Tensor | None = None,
        classes: Sequence[str] | None = None,
        vectors: Tensor | None = None,
    ) -> None:
        super().__init__(shape, labels, captions, vectors)
        self.classes = classes
        self.reader = reader
        self.strict = strict
        self.unreadable = Unreadable(len(reader))

    def __len__(self) -> int:
        return len(self.reader)

    @property
    def max_reference(self) -> int | None:
        return self.reader.max_reference

    @property
    def bits(self) -> Bits:
        return self.reader.bits

    @property
    def can_crop(self) -> bool:
        return self.reader.can_crop

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return self.shaped_batch(indices, None, self.shape)

    def training_batch(self, indices: Tensor, crops: Tensor | None) -> dict[str, Tensor]:
        return self.shaped_batch(indices, crops, self.shape)

    def shaped_batch(self, indices: Tensor, crops: Tensor | None, shape: Shape) -> dict[str, Tensor]:
        """Returns `training_batch` with images of another shape."""
        places = [CENTER] * len(indices) if crops is None else [(top, left) for top, left in crops.tolist()]
        used, pixels = zip(*self._readable(indices.tolist(), places, shape), strict=True)
        return {"image": torch.stack(pixels), **self.metadata(torch.tensor(used))}

    def size(self, index: int) -> tuple[int, int]:
        """Returns (height, width) of an image before it is cropped, or those of the set if it cannot be read."""
        try:
            return self.reader.size(index)
        except Exception:  # any kind: a file may contain any bytes; it is named when it is to be used
            return self.shape.height, self.shape.width

    def _readable(self, indices: list[int], crops: list[Crop], shape: Shape) -> list[tuple[int, Tensor]]:
        """Returns the index and pixels of each image, or of the next readable one; threads decode, except in a worker process."""
        if len(indices) < MANY or get_worker_info() is not None:
            return [self._next_readable(index, crop, shape) for index, crop in zip(indices, crops, strict=True)]
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            return list(pool.map(self._next_readable, indices, crops, repeat(shape)))

    def load(self) -> LoadedImages:
        pixels = torch.empty((len(self), *self.shape), dtype=DTYPE_OF_BITS[self.bits])
        pool = ThreadPoolExecutor(NUM_THREADS)
        starts = range(0, len(self), CHUNK)
        errors: dict[int, Exception] = {}
        try:
            with show_progress("reading images", len(self), "img", rank_zero_only.rank == 0) as bar:
                for start, found in zip(
                    starts, pool.map(lambda start: self._fill(pixels[start : start + CHUNK], start), starts), strict=True
                ):
                    if self.strict and found:
                        raise UserError(self._describe(*next(iter(found.items()))))
                    errors |= found
                    bar.update(min(CHUNK, len(self) - start))
        finally:
            pool.shutdown(cancel_futures=True)
        return self._without(errors, pixels)

    def read(self, start: int, stop: int) -> ReadImages:
        pixels = torch.empty((stop - start, *self.shape), dtype=DTYPE_OF_BITS[self.bits])
        problems = {index: self._describe(index, error) for index, error in self._fill(pixels, start).items()}
        if problems:
            self._check_folder()
            if self.strict:
                raise UserError(next(iter(problems.values())))
        kept = [index for index in range(start, stop) if index not in problems]
        folder = self.reader.folder()
        names = [self.reader.name(index) for index in kept]
        names = names if folder is None else [name.removeprefix(f"{folder}/") for name in names]
        return ReadImages(pixels[[index - start for index in kept]] if problems else pixels, names, problems)

    def _fill(self, pixels: Tensor, start: int) -> dict[int, Exception]:
        """Decodes n images from index `start` on into `pixels` [n, C, H, W]; returns the errors by index."""
        errors = {}
        for place in range(len(pixels)):
            index = start + place
            try:
                pixels[place] = self.reader.pixels(index, self.shape)
            except UserError:  # not of this image alone: a stream has ended
                raise
            except Exception as error:  # any kind: a file may contain any bytes
                errors[index] = error
        return errors

    def _without(self, errors: dict[int, Exception], pixels: Tensor) -> LoadedImages:
        if not errors:
            return LoadedImages(pixels, self.labels, self.captions, self.vectors)
        if len(errors) == len(self):
            raise UserError(f"none of {len(self)} images can be read: {self._describe(0, errors[0])}")
        if rank_zero_only.rank == 0:
            for index, error in errors.items():
                self.unreadable.report(index, self._describe(index, error))
            log.warning("%d of %d images cannot be read and are left out", len(errors), len(self))
        kept = torch.tensor([index for index in range(len(self)) if index not in errors])
        known = self.metadata(kept)
        return LoadedImages(pixels[kept], known.get("label"), known.get("caption"), known.get("vector"))

    def _next_readable(self, index: int, crop: Crop, shape: Shape) -> tuple[int, Tensor]:
        for candidate in (*range(index, len(self)), *range(index)):
            try:
                return candidate, self.reader.pixels(candidate, shape, crop)
            except UserError:  # as above
                raise
            except Exception as error:
                self._check_folder()
                if self.strict:
                    raise UserError(self._describe(candidate, error)) from error
                if self.unreadable.report(candidate, self._describe(candidate, error)):
                    self._report_class(candidate)
        raise UserError(f"none of {len(self)} images can be read, the first of them is {self.reader.name(0)}")

    def _report_class(self, index: int) -> None:
        """Logs the class of an image that cannot be read if no other image of the class can be."""
        if self.labels is None or self.classes is None:
            return
        label = int(self.labels[index])
        found = self.unreadable.found[self.labels == label]
        if found.all():
            log.warning("of the class %s no image can be read, all %d are skipped", self.classes[label], len(found))

    def _check_folder(self) -> None:
        """Raises UserError if the folder of the images has vanished, or what was mounted there, so that none of them is left."""
        folder = self.reader.folder()
        if folder is not None and not (folder.is_dir() and any(folder.iterdir())):
            raise UserError(f"there are no images in {folder} any more")

    def _describe(self, index: int, error: Exception) -> str:
        return unreadable_message(self.reader.name(index), error)
