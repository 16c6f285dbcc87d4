"""Images to train on.

A source (`digits`, `folder`, `huggingface`, `torchvision`) knows the shape of its images before it reads any, and gives two
splits of them: `train()` and `held_out()`. A split is an `ImageSet`: `resident` in memory, or `decoded` when its images are asked
for. `order` says which image comes when, `loader` hands out batches in that order, `datamodule` shows it to Lightning.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Shape(NamedTuple):
    """Square images of `channels` (1 grey, 3 RGB) times `resolution` times `resolution` bytes."""

    channels: int
    resolution: int


class Content(NamedTuple):
    """Images uint8 [n, C, H, W] with what is known of each: labels and captions int64 [n], or None."""

    pixels: Tensor
    labels: Tensor | None
    captions: Tensor | None


class ImageSet(ABC):
    """One split: N images of one shape, in a fixed order that mixes the classes.

    So the first n of them are a fair sample of all, and the same n in every run.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def shape(self) -> Shape: ...

    @property
    @abstractmethod
    def labels(self) -> Tensor | None:
        """Class ids, int64 [N], where every image has exactly one class."""

    @property
    @abstractmethod
    def captions(self) -> Tensor | None:
        """Which of the source's captions each image has, int64 [N], where every image has one."""

    @abstractmethod
    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The training batch of int64 `indices` [B]: "image" uint8 [B, C, H, W], and `facts` of the images in it."""

    def facts(self, indices: Tensor) -> dict[str, Tensor]:
        """What is known of the images of int64 `indices` [B] beside their pixels, each int64 [B]: "label", where there are classes,
        and "caption", the place in the source's captions, where there are captions."""
        known = {"label": self.labels, "caption": self.captions}
        return {name: ids.index_select(0, indices.to(ids.device)) for name, ids in known.items() if ids is not None}

    @abstractmethod
    def load(self) -> Content:
        """All images; n < N where some cannot be read."""

    def images(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The images of `indices`, uint8 [len(indices), C, H, W]; `range(n)` gives the fixed sample of n."""
        return self.batch(torch.as_tensor(indices, dtype=torch.int64))["image"]


class ImageSource(ABC):
    """Where images come from."""

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """Known before anything is read or downloaded."""

    @property
    @abstractmethod
    def symmetric(self) -> bool:
        """Whether a mirrored image is as likely as the image itself, so that random flips make sense."""

    @property
    @abstractmethod
    def classes(self) -> Sequence[str] | None:
        """Names of the classes, in the order of their ids; may read the files."""

    @property
    @abstractmethod
    def captions(self) -> Sequence[str] | None:
        """All captions of the images of both splits, each once, sorted; None if they have none; may read the files."""

    @abstractmethod
    def prepare(self) -> None:
        """Downloads what is missing, where the user asked for it; called in one process per machine."""

    @abstractmethod
    def train(self) -> ImageSet: ...

    @abstractmethod
    def held_out(self) -> ImageSet:
        """Images that are never trained on; may be empty."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Equal for equal content and settings: a key for what is computed from the images. Reads no pixels of files."""
