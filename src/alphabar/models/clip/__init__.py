"""CLIP: a frozen image tower and text tower that embed an image and its caption near each other."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor


class CLIP(ABC):
    """A model that embeds images and texts as unit vectors [D] of one space, compared by their scalar product (Radford et al. 2021,
    sec. 2.3).

    It is no nn.Module, so that a module that holds it neither trains nor saves it; its weights are loaded when they are first
    needed and follow the images to their device. Embeddings depend neither on autocast nor on gradient mode or random states.
    """

    def __deepcopy__(self, memo: object) -> Self:
        """Returns this CLIP, which is frozen: a copy of a module shares it."""
        return self

    @property
    @abstractmethod
    def name(self) -> str:
        """The folder or the hub's name from which it is loaded."""

    @property
    @abstractmethod
    def width(self) -> int:
        """The length D of a vector; loads no weights. Raises UserError if there is no such CLIP."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """The SHA-256 of all files that define it."""

    @abstractmethod
    def images(self, images: Tensor) -> Tensor:
        """Returns unit vectors float32 [B, D] of uint8 images [B, 1 or 3, H, W] of any size, on their device."""

    @abstractmethod
    def texts(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Returns unit vectors float32 [N, D] of texts, on `device`. Raises UserError for a text that is too long."""


def must_be_images(images: Tensor) -> Tensor:
    """Returns uint8 [B, 3, H, W], with grey repeated. Raises ValueError for anything but uint8 images [B, 1 or 3, H, W], since
    floats would be misread silently."""
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"need torch.uint8 images [B, 1 or 3, H, W], got {images.dtype} {list(images.shape)}")
    return images.expand(-1, 3, -1, -1)


def must_have_digest(clip: CLIP, digest: str | None) -> None:
    """Raises ValueError if the CLIP differs from the one that a model was trained with; digest: None before training."""
    if digest is not None and clip.digest != digest:
        raise ValueError(f"this was trained with another CLIP, of digest {digest[:12]}, not {clip.digest[:12]}")
