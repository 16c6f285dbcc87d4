"""Codecs: between stored images and the space that diffusion runs in."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Codec(nn.Module, ABC):
    """Images are uint8 [B, C, H, W] everywhere outside; inside they are what `encode` makes of them."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Model space, float32 [B, ...], from uint8 images [B, C, H, W]."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """uint8 images [B, C, H, W] from model space [B, ...]."""
