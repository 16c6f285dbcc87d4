"""Codecs: between stored images and the space that diffusion runs in."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from alphabar.bits import Bits
from alphabar.diffusion.noise import SINGLE_PROCESS, RankShare
from alphabar.models.clip import CLIP


class Codec(nn.Module, ABC):
    """Encodes images [B, C, H, W], uint8 or, of 16 bits, uint16, into the space that diffusion runs in, and decodes them."""

    @property
    def bits(self) -> Bits:
        """The bits per channel of the images that `decode` returns: 8 for uint8, 16 for uint16."""
        return 8

    @property
    @abstractmethod
    def is_bounded(self) -> bool:
        """Whether data lie in [-1, 1], so that predictions can be clipped to it."""

    @property
    @abstractmethod
    def makes_images(self) -> bool:
        """Whether `decode` returns uint8 images, rather than something that only another model reads."""

    @property
    def has_pixel_likelihood(self) -> bool:
        """Whether `encode` is invertible on pixels, so that a density in its space gives bits per dimension of an image."""
        return False

    @property
    def latents(self) -> "LatentCodec | None":
        """The codec itself if its latents can be computed once and cached, else None."""
        return None

    @property
    def embedder(self) -> CLIP | None:
        """The CLIP whose image embeddings are the space, or None for any other space."""
        return None

    @property
    def frozen_parts(self) -> Mapping[str, str]:
        """The paths of frozen parts that a checkpoint names and does not hold, by their key in `FrozenPartPaths`."""
        return {}

    @abstractmethod
    def space(self, channels: int, height: int, width: int) -> Sequence[int]:
        """Returns the shape, without B, of what `encode` makes of images. Raises ValueError for an unsuitable size."""

    @abstractmethod
    def forward(self, batch: Mapping[str, Tensor], share: RankShare = SINGLE_PROCESS) -> Tensor:
        """Returns float32 [B, ...] in model space from a training batch.

        batch: has "image" [B, C, H, W] of `bits` or, if latents are cached, "latent". share: the random numbers that it may draw.
        Raises ValueError if the batch lacks the entry that is needed.
        """

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Returns float32 [B, ...] in model space from images [B, C, H, W], of `bits` or floats in [-1, 1]; deterministic."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """Returns images [B, C, H, W] of `bits` from model space [B, ...]; a codec that makes none documents what it returns."""


class LatentCodec(Codec, ABC):
    """A frozen encoder and decoder whose latents, each a normal distribution, can be computed once and cached.

    cache_dir: the folder in which the latents of training images are cached, or None if they are computed at every step.
    """

    def __init__(self, cache_dir: Path | None) -> None:
        super().__init__()
        self.cache_dir = cache_dir

    @property
    def latents(self) -> "LatentCodec":
        return self

    @property
    @abstractmethod
    def digest(self) -> str:
        """The SHA-256 of the files that define the codec."""

    @property
    @abstractmethod
    def is_measured(self) -> bool:
        """Whether the mean and standard deviation of latents are known; they are measured once and kept in checkpoints."""

    @abstractmethod
    def distribution(self, images: Tensor) -> Tensor:
        """Returns the means and standard deviations of the latents of uint8 images [B, C, H, W], not normalised, as float32
        [B, 2, ...]."""

    @abstractmethod
    def measure(self, mean: Tensor, std: Tensor, num: int) -> None:
        """Stores the mean and the standard deviation of each channel, [c] each, over `num` images."""
