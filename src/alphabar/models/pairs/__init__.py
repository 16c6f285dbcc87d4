"""Image-text pairs: two frozen networks whose vectors of an image and of its caption are near each other."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor


class Pair(ABC):
    """Images and texts as unit vectors of one space, compared by their scalar product; Radford et al. 2021, sec. 2.3.

    It is no module, so that the one that holds it neither trains nor saves it; its weights are read when they are first needed, and
    go where the images are. The same whatever the precision, the gradients and the random numbers around it.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The folder or the hub's name from which it is read."""

    @property
    @abstractmethod
    def width(self) -> int:
        """D, how many numbers a vector has; reads no weights. Raises UserError if there is no such pair."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of all that makes it what it is."""

    @abstractmethod
    def images(self, images: Tensor) -> Tensor:
        """Unit vectors float32 [B, D] of uint8 images [B, 1 or 3, H, W] of any size, on their device."""

    @abstractmethod
    def texts(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Unit vectors float32 [N, D] of texts, on `device`. Raises UserError for a text that is too long."""


def must_be_images(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W], grey repeated. Raises ValueError for anything but uint8 images [B, 1 or 3, H, W]: floats would be misread
    without a word."""
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"need torch.uint8 images [B, 1 or 3, H, W], got {images.dtype} {list(images.shape)}")
    return images.expand(-1, 3, -1, -1)
