"""Codecs: between stored images and the space that diffusion runs in."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

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


class LatentCodec(Codec, ABC):
    """A frozen encoder and decoder whose latents, each a normal distribution, can be made once and kept."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of the files that make it what it is."""

    @property
    @abstractmethod
    def cache_dir(self) -> Path | None:
        """Where the latents of training images are kept; None: nowhere, they are made at every step."""

    @property
    @abstractmethod
    def is_measured(self) -> bool:
        """Whether it knows the mean and the standard deviation of latents, which it learns once and which checkpoints keep."""

    @abstractmethod
    def distribution(self, images: Tensor) -> Tensor:
        """Means and standard deviations of the latents of uint8 images [B, C, H, W], not normalised: float32 [B, 2, ...]."""

    @abstractmethod
    def measure(self, mean: Tensor, std: Tensor, num: int) -> None:
        """Takes note of the mean and the standard deviation of each channel, [c] each, over `num` images."""
