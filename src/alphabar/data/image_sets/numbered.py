"""Images that are identified by numbers instead of file names: the items of a dataset or the rows of an array."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphabar.bits import Bits
from alphabar.data import ImageSet, ImageSource, Shape
from alphabar.data.decoding.pixels import CENTER, Crop
from alphabar.data.decoding.raw_images import RawImage, fit_pixels, must_have_shape, shape_of
from alphabar.data.decoding.unreadable import unreadable_message
from alphabar.data.folders.files import hash_position
from alphabar.data.image_sets.decoded import DecodedImages, ImageReader
from alphabar.errors import UserError
from alphabar.resolution import Resolution

NO_NOTES: Mapping[str, str] = {}


class Metadata(NamedTuple):
    """The metadata of N images: labels int64 [N], captions [N], vectors float32 [N, D]; None for those that they do not have."""

    labels: Tensor | None = None
    captions: Sequence[str] | None = None
    vectors: Tensor | None = None

    @property
    def kinds(self) -> list[str]:
        """The names of the fields that are not None."""
        return [name for name, values in self._asdict().items() if values is not None]


class NumberedImages(ABC):
    """A set of N images of any sizes; reading an image twice gives the same pixels."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, number: int) -> RawImage:
        """Returns an image. Raises an error of any kind if it cannot be read."""

    @abstractmethod
    def name(self, number: int) -> str:
        """Returns the name of an image in messages."""

    @abstractmethod
    def metadata(self, reads_captions: bool) -> Metadata:
        """Returns the metadata of all images. reads_captions: whether captions are used. Raises UserError for invalid metadata."""

    @property
    @abstractmethod
    def classes(self) -> Sequence[str] | None:
        """The names of the classes of the labels, or None where they are not known."""

    @property
    @abstractmethod
    def remarks(self) -> Mapping[str, str]:
        """The remarks for the user, see `ImageSource.remarks`."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Returns a key that is equal for equal images, as far as a look at a few of them tells."""

    def image_files(self) -> dict[str, Any] | None:
        """Returns the record of the user's files, see `ImageSource.image_files`; by default None."""
        return None


@dataclass(frozen=True)
class NumberedReader(ImageReader):
    """Reads the images with these numbers, in this order.

    is_scaled: whether images are cropped and scaled to the shape; otherwise they must have it. bits: the bits per channel.
    """

    images: NumberedImages
    numbers: list[int]
    is_scaled: bool
    bits: Bits = 8

    def __len__(self) -> int:
        return len(self.numbers)

    def pixels(self, index: int, shape: Shape, crop: Crop = CENTER) -> Tensor:
        image = self.images.read(self.numbers[index])
        return fit_pixels(image, shape, crop, self.bits) if self.is_scaled else must_have_shape(image, shape, self.bits)

    def size(self, index: int) -> tuple[int, int]:
        _, height, width = shape_of(self.images.read(self.numbers[index]))
        return height, width

    @property
    def can_crop(self) -> bool:
        return self.is_scaled

    def name(self, index: int) -> str:
        return self.images.name(self.numbers[index])


class NumberedSource(ImageSource):
    """A source of numbered images, with the order and the split of a folder that holds them as 000000.png, 000001.png, ...

    So equal images give equal batches whatever their source, and images that are added at the end do not move others. An image
    that cannot be read ends the run.

    held_out_images: images that are never trained on; None: the fraction `held_out` of `images`, chosen by number.
    resolution: images are cropped and scaled to it; None: that of the first image, which all must have. channels: 1 grey, 3 RGB,
    4 RGBA; None: those of the first image. classes: the names of the classes; None: those of `images`, or else their numbers.
    notes: further remarks. bits: the bits per channel, see `to_pixels_of_bits`.
    Raises ValueError unless 0 <= held_out < 1, and UserError if there are no images.
    """

    def __init__(
        self,
        images: NumberedImages,
        held_out_images: NumberedImages | None,
        held_out: float,
        resolution: Resolution | None,
        channels: int | None,
        classes: Sequence[str] | None,
        notes: Mapping[str, str] = NO_NOTES,
        bits: Bits = 8,
    ) -> None:
        if not 0 <= held_out < 1:
            raise ValueError(f"need 0 <= held_out < 1, got {held_out}")
        self.images = images
        self.held_out_images = held_out_images
        self.fraction = held_out
        self.resolution, self.channels = resolution, channels
        self.class_names = classes
        self.notes = notes
        self.num_bits: Bits = bits
        for each in self._parts:
            if len(each) == 0:
                raise UserError(f"there are no images: {each.name(0)} does not exist")

    @cached_property
    def shape(self) -> Shape:
        try:
            channels, height, width = shape_of(self.images.read(0))
        except Exception as error:  # any kind: it is other people's code that reads
            raise UserError(unreadable_message(self.images.name(0), error)) from error
        channels = channels if self.channels is None else self.channels
        if channels < 1:
            raise UserError(f"data.channels={channels}: need 1 or more")
        return Shape(channels, height, width) if self.resolution is None else Shape.of(channels, self.resolution)

    @property
    def bits(self) -> Bits:
        return self.num_bits

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        labels = [part.labels for part in self._metadata if part.labels is not None]
        if not labels:
            return None
        known = self.images.classes if self.class_names is None else self.class_names
        most = max(int(each.max()) for each in labels) + 1
        names = tuple(map(str, range(most) if known is None else known))
        for part, found in zip(self._parts, labels, strict=False):
            for wrong in (int(found.argmin()), int(found.argmax())):
                if not 0 <= int(found[wrong]) < len(names):
                    label = int(found[wrong])
                    raise UserError(f"{part.name(wrong)} has the label {label}: need 0 to {len(names) - 1} (data.classes)")
        return names

    @cached_property
    def captions(self) -> tuple[str, ...] | None:
        if not self.reads_captions:
            return None
        texts = {text for part in self._metadata for text in part.captions or ()}
        return tuple(sorted(texts)) or None

    @property
    def vector_length(self) -> int | None:
        vectors = self._metadata[0].vectors
        return None if vectors is None else vectors.shape[1]

    @property
    def remarks(self) -> Mapping[str, str]:
        return {**self.notes, **self.images.remarks}

    def image_files(self) -> Mapping[str, Any] | None:
        return self.images.image_files()

    def prepare(self) -> None:
        """Does nothing: the images are the user's own."""

    def train(self) -> ImageSet:
        numbers, _ = self._split
        if not numbers:
            raise UserError(f"all {len(self.images)} images are held out: set data.held_out=0")
        return self._image_set(self.images, self._metadata[0], numbers)

    def held_out(self) -> ImageSet:
        if self.held_out_images is not None:
            return self._image_set(self.held_out_images, self._metadata[1], numbered_order(len(self.held_out_images)))
        return self._image_set(self.images, self._metadata[0], self._split[1])

    def fingerprint(self) -> str:
        bits = () if self.bits == 8 else (self.bits,)
        settings = (*self.shape, self.resolution is None, self.fraction, self.classes, *bits)
        parts = [part.fingerprint() for part in self._parts]
        return hashlib.blake2b(repr((settings, parts)).encode(), digest_size=16).hexdigest()

    @property
    def _parts(self) -> list[NumberedImages]:
        return [self.images] if self.held_out_images is None else [self.images, self.held_out_images]

    @cached_property
    def _split(self) -> tuple[list[int], list[int]]:
        """Returns the numbers of the images to train on and of those that are held out, in the order in which they are used."""
        order = numbered_order(len(self.images))
        if self.held_out_images is not None:
            return order, []
        is_held_out = [hash_position(numbered_name(number)) < self.fraction for number in order]
        return (
            [number for number, held in zip(order, is_held_out, strict=True) if not held],
            [number for number, held in zip(order, is_held_out, strict=True) if held],
        )

    @cached_property
    def _metadata(self) -> list[Metadata]:
        """Returns the metadata of each part. Raises UserError unless all parts have the same kinds of it."""
        found = [part.metadata(self.reads_captions) for part in self._parts]
        sizes = [None if part.vectors is None else part.vectors.shape[1] for part in found]
        if found[-1].kinds != found[0].kinds or sizes[-1] != sizes[0]:
            kinds = [", ".join(part.kinds) or "nothing" for part in found]
            raise UserError(f"data: need equal metadata of all images, got {kinds[0]} to train on and {kinds[-1]} held out")
        return found

    def _image_set(self, images: NumberedImages, known: Metadata, numbers: list[int]) -> ImageSet:
        rows, captions = torch.tensor(numbers, dtype=torch.int64), None
        if known.captions is not None and self.captions is not None:
            ids = {caption: index for index, caption in enumerate(self.captions)}
            captions = torch.tensor([ids[known.captions[number]] for number in numbers], dtype=torch.int64)
        labels, vectors = (None if values is None else values[rows] for values in (known.labels, known.vectors))
        reader = NumberedReader(images, numbers, self.resolution is not None, self.bits)
        return DecodedImages(reader, self.shape, labels, True, captions, self.classes, vectors)


def numbered_order(num: int) -> list[int]:
    """Returns the numbers 0..num - 1 in the order in which data=folder has files of the names `numbered_name`."""
    return sorted(range(num), key=lambda number: (hash_position(numbered_name(number)), number))


def numbered_name(number: int) -> str:
    """Returns the name of the file that stands for a number."""
    return f"{number:06d}.png"
