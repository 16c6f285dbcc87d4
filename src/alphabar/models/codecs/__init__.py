"""Codecs: between stored images and the space that diffusion runs in."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn


class Codec(nn.Module, ABC):
    """Images are uint8 [B, C, H, W] everywhere outside; inside they are what `encode` makes of them."""

    @property
    @abstractmethod
    def is_bounded(self) -> bool:
        """Whether data lie in [-1, 1], so that a prediction beyond it can be clipped."""

    @property
    @abstractmethod
    def makes_images(self) -> bool:
        """Whether `decode` gives uint8 images, or else something that only another model reads."""

    @abstractmethod
    def space(self, channels: int, resolution: int) -> Sequence[int]:
        """The shape, without B, of what `encode` makes of square images. Raises ValueError if it encodes none of this size."""

    @abstractmethod
    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Model space, float32 [B, ...], of a training batch, which has "image" uint8 [B, C, H, W] or, where latents are kept,
        "latent". It may draw random numbers. Raises ValueError if the batch lacks what it takes."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Model space, float32 [B, ...], from uint8 images [B, C, H, W]; always the same."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """uint8 images [B, C, H, W] from model space [B, ...]; what else it gives if it makes no images, it says itself."""
