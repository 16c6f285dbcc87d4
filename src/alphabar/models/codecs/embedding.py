"""Diffusion on the vectors that an image-text pair makes of images."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from alphabar.models.codecs import LatentCodec
from alphabar.models.pairs import Pair
from alphabar.models.pairs.stored import must_be_the_same


class ImageEmbedding(LatentCodec):
    """x = sqrt(D) * u, u the unit vector [D] of an image, so that the mean square of x is one; Ramesh et al. 2022, sec. 2.2.

    It makes no images: `decode` returns vectors that conditioner=image_embedding reads. As latents, vectors have no variance.

    digest: the pair's digest at the time of training, which train.py fills in; another pair raises ValueError.
    cache: whether each training image is embedded once; else at every step. cache_dir: the folder of the cached vectors.
    """

    def __init__(self, pair: Pair, digest: str | None = None, cache: bool = True, cache_dir: str = "outputs/cache/latents") -> None:
        super().__init__()
        must_be_the_same(pair, digest)
        self.pair = pair
        self.cache = cache
        self._cache_dir = Path(cache_dir)

    @property
    def embedder(self) -> Pair:
        return self.pair

    @property
    def frozen_parts(self) -> Mapping[str, str]:
        return {"pair_name": self.pair.name}

    @property
    def digest(self) -> str:
        return self.pair.digest

    @property
    def cache_dir(self) -> Path | None:
        return self._cache_dir if self.cache else None

    @property
    def is_measured(self) -> bool:
        return True  # unit vectors have a known scale

    @property
    def is_bounded(self) -> bool:
        return False

    @property
    def makes_images(self) -> bool:
        return False

    def space(self, channels: int, resolution: int) -> Sequence[int]:
        return (self.pair.width,)

    def distribution(self, images: Tensor) -> Tensor:
        x = self.encode(images)
        return torch.stack([x, torch.zeros_like(x)], dim=1)

    def measure(self, mean: Tensor, std: Tensor, num: int) -> None:
        """Does nothing, since the scale of unit vectors is known."""

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return batch["latent"][:, 0].float() if "latent" in batch else self.encode(batch["image"])

    def encode(self, images: Tensor) -> Tensor:
        return self.pair.images(images) * math.sqrt(self.pair.width)

    def decode(self, x: Tensor) -> Tensor:
        """Returns unit vectors, float32 [B, D]."""
        return F.normalize(x.float(), dim=1)
