"""Images to train on.

A source (`digits`, `folder`, `huggingface`, `prepared`, `torchvision`) knows the shape of its images before it reads any, and gives
two splits of them: `train()` and `held_out()`. A split is an `ImageSet`: `resident` in memory, or `decoded` when its images are
asked for. `loading` says which image comes when and hands out batches in that order, `datamodule` shows it to Lightning.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphabar.bits import Bits
from alphabar.resolution import Resolution, resolution_of, sides


class Shape(NamedTuple):
    """The shape (C, H, W) of images: `channels` (1 grey, 3 RGB), `height` and `width` in pixels."""

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, channels: int, resolution: Resolution) -> "Shape":
        """Returns the shape of images of a resolution as configurations have it, 64 or [48, 64]. Raises ValueError as `sides`."""
        return cls(channels, *sides(resolution))

    @property
    def resolution(self) -> int | list[int]:
        """Returns height and width as configurations have them, one number for squares."""
        return resolution_of(self.height, self.width)


class LoadedImages(NamedTuple):
    """Images in memory, uint8 or uint16 [n, C, H, W], with the metadata of an `ImageSet`, [n] each, or None."""

    pixels: Tensor
    labels: Tensor | None
    captions: Tensor | None
    vectors: Tensor | None = None


class ReadImages(NamedTuple):
    """Consecutive images of an `ImageSet`: pixels uint8 or uint16 [n, C, H, W] and names [n] of the readable ones.

    problems: why the others cannot be read, by their indices.
    """

    pixels: Tensor
    names: list[str]
    problems: dict[int, str]


class ImageSet(ABC):
    """One split: N images of one shape, in a fixed order that mixes the classes.

    So the first n of them are a fair sample of all, and the same n in every run.

    labels: class ids, int64 [N], where every image has exactly one class, else None.
    captions: the index of each image's caption in the source's captions, int64 [N]; None unless every image has one.
    vectors: the vector of each image, float32 [N, D]; None unless every image has one.
    """

    def __init__(self, shape: Shape, labels: Tensor | None, captions: Tensor | None, vectors: Tensor | None = None) -> None:
        self.shape = shape
        self.labels = labels
        self.captions = captions
        self.vectors = vectors

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    def bits(self) -> Bits:
        """Returns the bits per channel: 8 if images are uint8, 16 if they are uint16."""
        return 8

    @property
    def num_bytes(self) -> int:
        """Returns the number of bytes that all pixels take in memory."""
        return len(self) * math.prod(self.shape) * self.bits // 8

    @abstractmethod
    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Returns the training batch of int64 `indices` [B]: "image" [B, C, H, W] of `bits`, and the `metadata` of its images."""

    @property
    def max_reference(self) -> int | None:
        """Returns the maximal number of images, the first ones, that generated images are compared with; None: all."""
        return None

    @property
    def can_crop(self) -> bool:
        """Returns whether images are larger than the shape in which they are used, so that there are places to crop."""
        return False

    def training_batch(self, indices: Tensor, crops: Tensor | None) -> dict[str, Tensor]:
        """Returns `batch` with each image cropped at its place in `crops`, float32 [B, 2]: (0, 0) is top left, (1, 1) bottom right.

        Where the set has buckets of several sizes, `indices` are of one bucket and images have its size.
        Raises ValueError for crops unless `can_crop`.
        """
        if crops is not None:
            raise ValueError(f"images of {type(self).__name__} cannot be cropped")
        return self.batch(indices)

    def split_by_shape(self, indices: Tensor) -> list[Tensor]:
        """Returns int64 `indices` [N] in parts whose images have one shape in a `training_batch`: one part, but for buckets."""
        return [indices]

    def metadata(self, indices: Tensor) -> dict[str, Tensor]:
        """Returns the metadata of the images `indices` [B] that the set has: "label" int64 [B], "caption" int64 [B], which is the
        index in the source's captions, and "vector" float32 [B, D]."""
        known = {"label": self.labels, "caption": self.captions, "vector": self.vectors}
        return {name: rows.index_select(0, indices.to(rows.device)) for name, rows in known.items() if rows is not None}

    @abstractmethod
    def load(self) -> LoadedImages:
        """Returns all images in memory; n < N where some cannot be read."""

    @abstractmethod
    def read(self, start: int, stop: int) -> ReadImages:
        """Returns the images `start` to `stop` - 1; thread-safe. Raises UserError for an unreadable image of a strict set."""

    def images(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Returns the images `indices`, [len(indices), C, H, W] of `bits`; `range(n)` gives the fixed sample of n."""
        return self.batch(torch.as_tensor(indices, dtype=torch.int64))["image"]


class ImageSource(ABC):
    """A source of images: two splits, of which one may be empty.

    A source must give its shape, its two splits and a fingerprint; classes, captions, vectors and symmetry have a default.

    reads_captions: whether captions are used; if not, they are not read. It is set before the splits are asked for.
    """

    reads_captions: bool = True

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """Returns the shape of the images, which is known before anything is read or downloaded."""

    @property
    def bits(self) -> Bits:
        """Returns the bits per channel, see `ImageSet.bits`."""
        return 8

    @property
    def symmetric(self) -> bool:
        """Returns whether a mirrored image is as likely as the image itself, so that random flips make sense."""
        return False

    @property
    def block_size(self) -> int:
        """Returns the number of images that are shuffled together if they are read sequentially; 0: all."""
        return 0

    @property
    def classes(self) -> Sequence[str] | None:
        """Returns the names of the classes, in the order of their ids, or None; may read the files."""
        return None

    @property
    def captions(self) -> Sequence[str] | None:
        """Returns all captions of both splits, each once, sorted, or None if images have none; may read the files."""
        return None

    @property
    def vector_length(self) -> int | None:
        """Returns the length D of the vector of each image, or None if images have none; may read the files."""
        return None

    @property
    def remarks(self) -> Mapping[str, str]:
        """Returns remarks for the user by their subjects, such as {"not used": "30 .heic"}; may read the names of the files."""
        return {}

    def image_files(self) -> Mapping[str, Any] | None:
        """Returns the number of the user's files and a hash of their names and sizes, wherever they lie; None for other data."""
        return None

    @abstractmethod
    def prepare(self) -> None:
        """Downloads what is missing, where the user asked for it; called in one process per machine."""

    @abstractmethod
    def train(self) -> ImageSet: ...

    @abstractmethod
    def held_out(self) -> ImageSet:
        """Returns images that are never trained on; may be empty."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Returns a key that is equal for equal images and settings, for caches of what is computed from them; reads no pixels."""
