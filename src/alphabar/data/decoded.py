"""Image sets whose images are decoded batch by batch."""

import logging
import os
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor

import torch
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from alphabar.data import ImageSet, LoadedImages, Shape
from alphabar.data.pixels import to_pixels
from alphabar.data.unreadable import Unreadable, describe
from alphabar.errors import UserError

log = logging.getLogger(__name__)
CHUNK = 64


class ImageReader(ABC):
    """N images that Pillow can open, in a fixed order that mixes the classes."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Image.Image: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """Returns the name of the image in messages."""


class DecodedImages(ImageSet):
    """The images of `reader`, each cropped and scaled to `shape`.

    strict: an image that cannot be read raises `UserError`. Otherwise it is named in the log; `batch` takes the next
    readable one in its place, with its label and caption, and `load` leaves it out.
    """

    def __init__(
        self, reader: ImageReader, shape: Shape, labels: Tensor | None, strict: bool = False, captions: Tensor | None = None
    ) -> None:
        self.reader = reader
        self.strict = strict
        self.unreadable = Unreadable(len(reader))
        self._shape = shape
        self._labels = labels
        self._captions = captions

    def __len__(self) -> int:
        return len(self.reader)

    @property
    def shape(self) -> Shape:
        return self._shape

    @property
    def labels(self) -> Tensor | None:
        return self._labels

    @property
    def captions(self) -> Tensor | None:
        return self._captions

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        used, pixels = zip(*map(self._next_readable, indices.tolist()), strict=True)
        return {"image": torch.stack(pixels), **self.metadata(torch.tensor(used))}

    def load(self) -> LoadedImages:
        channels, resolution = self._shape
        pixels = torch.empty((len(self), channels, resolution, resolution), dtype=torch.uint8)
        pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        starts = range(0, len(self), CHUNK)
        quiet = True if rank_zero_only.rank else None  # None: where there is no terminal
        errors: dict[int, Exception] = {}
        try:
            with tqdm(total=len(self), desc="reading images", unit="img", delay=2, leave=False, disable=quiet) as bar:
                for found in pool.map(lambda start: self._fill(pixels, start), starts):
                    if self.strict and found:
                        raise UserError(self._describe(*next(iter(found.items()))))
                    errors |= found
                    bar.update(min(CHUNK, len(self) - bar.n))
        finally:
            pool.shutdown(cancel_futures=True)
        return self._without(errors, pixels)

    def _fill(self, pixels: Tensor, start: int) -> dict[int, Exception]:
        errors = {}
        for index in range(start, min(start + CHUNK, len(self))):
            try:
                pixels[index] = self._decode(index)
            except Exception as error:  # of whatever kind: any bytes may stand in a file
                errors[index] = error
        return errors

    def _without(self, errors: dict[int, Exception], pixels: Tensor) -> LoadedImages:
        if not errors:
            return LoadedImages(pixels, self._labels, self._captions)
        if len(errors) == len(self):
            raise UserError(f"none of {len(self)} images can be read: {self._describe(0, errors[0])}")
        if rank_zero_only.rank == 0:
            for index, error in errors.items():
                self.unreadable.report(index, self._describe(index, error))
            log.warning("%d of %d images cannot be read and are left out", len(errors), len(self))
        kept = torch.tensor([index for index in range(len(self)) if index not in errors])
        facts = self.metadata(kept)
        return LoadedImages(pixels[kept], facts.get("label"), facts.get("caption"))

    def _next_readable(self, index: int) -> tuple[int, Tensor]:
        for candidate in (*range(index, len(self)), *range(index)):
            try:
                return candidate, self._decode(candidate)
            except Exception as error:
                if self.strict:
                    raise UserError(self._describe(candidate, error)) from error
                self.unreadable.report(candidate, self._describe(candidate, error))
        raise UserError(f"none of {len(self)} images can be read, the first of them is {self.reader.name(0)}")

    def _decode(self, index: int) -> Tensor:
        with self.reader.read(index) as image:
            return to_pixels(image, self._shape)

    def _describe(self, index: int, error: Exception) -> str:
        return describe(self.reader.name(index), error)
