"""Diffusion on the CLIP embeddings of images."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from alphabar.diffusion.noise import SINGLE_PROCESS, RankShare
from alphabar.files.paths import user_path
from alphabar.models.clip import CLIP, must_have_digest
from alphabar.models.codecs import LatentCodec


class CLIPEmbeddings(LatentCodec):
    """The codec x = sqrt(D) * u, u the unit vector [D] of an image, so that x has mean square 1 (Ramesh et al. 2022, sec. 2.2).

    It makes no images: `decode` returns vectors that conditioner=image_embedding reads. As latents, vectors have no variance.

    digest: that of the CLIP in training, which train.py fills in; another CLIP raises ValueError.
    cache: whether each training image is embedded once; else at every step. cache_dir: the folder of the cached vectors.
    """

    def __init__(self, clip: CLIP, digest: str | None = None, cache: bool = True, cache_dir: str = "outputs/cache/latents") -> None:
        super().__init__(user_path(cache_dir) if cache else None)
        must_have_digest(clip, digest)
        self.clip = clip

    @property
    def embedder(self) -> CLIP:
        return self.clip

    @property
    def frozen_parts(self) -> Mapping[str, str]:
        return {"clip_name": self.clip.name}

    @property
    def digest(self) -> str:
        return self.clip.digest

    @property
    def is_measured(self) -> bool:
        return True  # unit vectors have a known scale

    @property
    def is_bounded(self) -> bool:
        return False

    @property
    def makes_images(self) -> bool:
        return False

    def space(self, channels: int, height: int, width: int) -> Sequence[int]:
        return (self.clip.width,)

    def distribution(self, images: Tensor) -> Tensor:
        x = self.encode(images)
        return torch.stack([x, torch.zeros_like(x)], dim=1)

    def measure(self, mean: Tensor, std: Tensor, num: int) -> None:
        """Does nothing, since the scale of unit vectors is known."""

    def forward(self, batch: Mapping[str, Tensor], share: RankShare = SINGLE_PROCESS) -> Tensor:
        return batch["latent"][:, 0].float() if "latent" in batch else self.encode(batch["image"])

    def encode(self, images: Tensor) -> Tensor:
        return self.clip.images(images) * math.sqrt(self.clip.width)

    def decode(self, x: Tensor) -> Tensor:
        """Returns unit vectors, float32 [B, D]."""
        return F.normalize(x.float(), dim=1)
